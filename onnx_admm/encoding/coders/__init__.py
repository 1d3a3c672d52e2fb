"""One coder for each layout of codes, and what they share."""
