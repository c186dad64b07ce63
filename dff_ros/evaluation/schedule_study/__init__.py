"""Schedules against the oracle, on tables of every frame at every age of its key."""
