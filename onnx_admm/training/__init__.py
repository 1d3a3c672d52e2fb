"""Fine-tuning through onnxruntime-training."""
