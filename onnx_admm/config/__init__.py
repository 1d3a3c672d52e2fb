"""Recipes and the registry of plug-ins."""
