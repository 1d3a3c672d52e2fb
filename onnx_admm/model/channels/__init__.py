"""Channels of the whole graph: which can only be removed together, and their removal."""
