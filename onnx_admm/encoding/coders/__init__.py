"""Coders, one for each layout of codes, and their common parts."""
