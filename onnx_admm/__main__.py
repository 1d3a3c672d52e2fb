"""``python -m onnx_admm``: the command."""

from onnx_admm.cli import main

if __name__ == "__main__":
    main()
