"""How fast models run: measured."""
