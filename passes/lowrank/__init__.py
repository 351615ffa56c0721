"""Factorised layers: one rewrite or one way of finding the factors a file."""
