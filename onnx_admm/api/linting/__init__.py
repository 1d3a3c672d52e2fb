"""Lint a model file, and mend it."""
