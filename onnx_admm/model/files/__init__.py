"""The bytes of a model: protobuf format, external tensors, limits on what is read."""
