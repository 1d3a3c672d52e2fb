"""Runs of models in separate processes, which may crash or hang."""
