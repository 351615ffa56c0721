"""Published training methods, one a file."""
