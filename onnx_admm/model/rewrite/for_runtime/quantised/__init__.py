"""Rewrites of layers with dequantised weights and of quantised values."""
