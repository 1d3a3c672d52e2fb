"""Exact rewrites into operators that ONNX Runtime has fast kernels for.

`rules.REWRITES` lists them. Each one finds its places in a graph without changing it, so that a check of a
model and a pass that changes it share one description of the pattern.
"""
