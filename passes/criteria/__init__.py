"""Criteria: which channels matter least."""
