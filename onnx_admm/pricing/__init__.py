"""Costs of a model under a cost model."""
