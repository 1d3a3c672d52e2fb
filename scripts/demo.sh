#!/usr/bin/env bash
# Trains LeNet-5 from scratch, compresses it with the command a user would type, and holds the result to its promise.
set -euo pipefail
cd "$(dirname "$0")/.."
run() {
    echo "\$ $*"
    "$@"
}

run python examples/train_lenet.py demo
run onnx-admm compress demo/lenet5.onnx demo/lenet5-small.onnx --data demo/train.npz --test demo/test.npz \
    --prune 8x --bits 6 --format packed --report demo/report.json
run onnx-admm compare demo/lenet5.onnx demo/lenet5-small.onnx --data demo/test.npz --max-drop 0.5 --min-ratio 20
