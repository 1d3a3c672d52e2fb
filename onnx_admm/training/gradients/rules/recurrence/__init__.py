"""Gradients of recurrent layers: what all have in common, and the gates of each."""
