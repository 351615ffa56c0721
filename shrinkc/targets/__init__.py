"""Deployment targets as data; no code."""
