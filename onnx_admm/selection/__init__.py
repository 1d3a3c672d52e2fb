"""Which layers and channels a pass works on, and which constants are no weights."""
