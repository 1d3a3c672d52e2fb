"""Measurement of output changes when weights or graphs are exchanged."""
