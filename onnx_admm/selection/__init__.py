"""Selection of layers, channels and constants that a pass works on."""
