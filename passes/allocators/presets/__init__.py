"""Published widths as data; no code."""
