"""Removal of channels: which, how many, and the refit of what reads them."""
