"""Packed storage: codes, gaps and codebooks, and the standard operators that decode them inside the graph."""
