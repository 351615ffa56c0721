"""Training recipes as data; no code."""
