"""Runs of models in processes of their own, which may crash or hang."""
