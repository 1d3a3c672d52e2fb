"""Layer-wise reconstruction: least squares from second moments, solved over a constraint set."""
