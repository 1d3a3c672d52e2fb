"""Search for a result within a cost budget: candidates of layers, rounds, and reasons."""
