"""The protobuf side of differentiation: models as records of static shape, and records as models."""
