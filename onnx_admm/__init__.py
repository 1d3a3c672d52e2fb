"""onnx-admm: prune and quantise trained ONNX models by ADMM."""
