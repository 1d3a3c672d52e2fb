"""Locks, temporary folders, and arrays with arbitrary names in files."""
