"""What a model costs under a cost model."""
