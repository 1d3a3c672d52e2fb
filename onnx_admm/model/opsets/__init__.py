"""Conversion to a newer opset, each rewritten node compared with the one before it."""
