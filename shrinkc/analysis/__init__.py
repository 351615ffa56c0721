"""What may be removed from a graph, and what it costs."""
