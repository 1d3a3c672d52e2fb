"""The built-in cost models, one for each file; they use the core as third-party cost models do."""

if __name__ != "onnx_admm.cost_models":
    raise ImportError("import these cost models as onnx_admm.cost_models, or each class would load twice")
