"""Calibration: inputs of each layer, from samples, as the rows of a least-squares problem."""
