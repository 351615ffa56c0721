"""Published methods and rewrites, one per file; imported as ``shrinkc.passes`` and found through entry points."""
