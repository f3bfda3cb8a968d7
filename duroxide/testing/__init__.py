"""For tests: of users' orchestrations, and of stores written by others."""
