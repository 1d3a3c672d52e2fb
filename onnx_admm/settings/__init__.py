"""Dataclasses from TOML tables, and the ranges of their numbers."""
