"""Removal of channels and blocks: which, how many, and the refit of the layers that read them."""
