"""What data tells about a model."""
