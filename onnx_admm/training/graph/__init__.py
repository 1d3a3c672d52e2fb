"""Fine-tuning on a stock ONNX Runtime: one training step is one graph."""
