"""Passes that remove parts of a model."""
