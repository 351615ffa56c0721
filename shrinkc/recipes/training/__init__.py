"""Training recipes that come with the program."""
