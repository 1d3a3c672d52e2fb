"""ADMM itself: constraint sets, the loop, closed forms. Knows nothing of ONNX."""
