"""Constraint sets on supports and on levels, with their projections."""
