#!/usr/bin/env bash
# Trains LeNet-5 from scratch, then compresses it with the command a user would type.
set -euo pipefail
cd "$(dirname "$0")/.."
run() {
    echo "\$ $*"
    "$@"
}

run python examples/train_lenet.py demo
run onnx-admm compress demo/lenet5.onnx demo/lenet5-small.onnx --data demo/train.npz --test demo/test.npz \
    --prune 20x --bits 4 --format packed --max-drop 0.5 --report demo/report.json
ls -l demo
