"""What calibration samples say about each layer: its inputs as the rows of a least-squares problem."""
