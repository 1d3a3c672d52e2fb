"""Integer activations in a graph: what is written, trials of one value, kernels that a runtime chose."""
