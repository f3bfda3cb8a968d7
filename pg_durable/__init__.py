"""Durable workflows written in SQL, on any PostgreSQL 14 to 18."""
