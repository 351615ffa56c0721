"""What goes to a board beside a model: scripts that need nothing of shrinkc."""
