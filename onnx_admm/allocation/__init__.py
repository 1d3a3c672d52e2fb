"""Allocation of one budget to layers."""
