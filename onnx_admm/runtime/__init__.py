"""Models in ONNX Runtime: sessions, accuracy, output error, latency."""
