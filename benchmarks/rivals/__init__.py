"""Today's one-shot methods, each written to its paper, on the same second moments as ours."""
