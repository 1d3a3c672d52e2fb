"""Edits of a model: fragments, shorter names, exposed values, the training graph."""
