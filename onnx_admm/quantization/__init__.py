"""Integer activations: ranges of values, operators that may be integer, and which of them are faster so."""
