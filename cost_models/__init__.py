"""The built-in cost models, one per file; they reach the core as a third party's would."""

if __name__ != "onnx_admm.cost_models":
    raise ImportError("import these cost models as onnx_admm.cost_models, or each class would load twice")
