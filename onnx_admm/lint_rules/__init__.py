"""Lint: rules that find in any ONNX file what makes it slow, wrong or impossible to load."""
