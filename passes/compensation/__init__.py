"""Compensation: what is left of a network takes over from what was removed."""
