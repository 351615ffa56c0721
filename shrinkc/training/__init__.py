"""Training: the graph itself is the model; what is learned goes back into it."""
