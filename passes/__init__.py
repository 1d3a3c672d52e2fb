"""The built-in passes, one for each file; they use the core as third-party passes do."""

if __name__ != "onnx_admm.passes":
    raise ImportError("import these passes as onnx_admm.passes, or each class would load twice")
