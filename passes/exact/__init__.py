"""Passes that keep the outputs, up to rounding."""
