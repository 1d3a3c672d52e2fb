"""A layer's own problem: least squares from second moments, solved over a constraint set."""
