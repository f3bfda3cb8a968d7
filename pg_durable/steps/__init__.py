"""What touches the world: SQL statements and HTTP requests."""
