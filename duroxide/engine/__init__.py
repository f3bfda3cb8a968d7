"""The replay engine: history and messages go in as data, and what the turn adds comes out as data."""
