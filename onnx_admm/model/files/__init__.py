"""The bytes of a model: protobuf format, tensors in other files, limits of what is read."""
