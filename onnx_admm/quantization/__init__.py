"""Integer activations: ranges of values, operators that may be integer, and where they pay."""
