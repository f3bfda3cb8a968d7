"""Durable tasks for Python: orchestrations that survive crashes, because every step is recorded."""
