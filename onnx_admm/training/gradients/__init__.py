"""Reverse-mode differentiation that writes the backward pass of a graph with ordinary operators."""
