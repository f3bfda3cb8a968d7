"""The duroxide state provider on PostgreSQL."""
