"""The built-in passes, one per file; they reach the core as a third party's would."""

if __name__ != "onnx_admm.passes":
    raise ImportError("import these passes as onnx_admm.passes, or each class would load twice")
