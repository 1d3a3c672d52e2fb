"""Conversion to a newer opset, with a comparison of each rewritten node."""
