"""Engines, one per file; imported as ``shrinkc.runtimes`` and found through entry points."""
