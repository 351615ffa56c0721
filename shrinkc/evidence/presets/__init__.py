"""Presets of image preprocessing as data; no code."""
