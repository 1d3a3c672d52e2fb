"""Readers of the data users have."""
