"""Everything that waits: fetches turns and activities, runs them, and commits what they did."""
