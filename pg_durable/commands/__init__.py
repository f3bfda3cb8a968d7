"""What the command line does, a module for each command that is more than a call.

Only these modules and `pg_durable.cli` import click and rich; the library needs neither.
"""
