"""Recipes as data; no code."""
