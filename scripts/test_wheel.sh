#!/usr/bin/env bash
# Runs the suite against the installed wheel; then runs what the end-to-end tests wrote in a current ONNX
# Runtime, and compresses there once, without fine-tuning. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT

export ONNX_ADMM_E2E_OUT=$kept
scripts/run_suite.sh .venv-wheel --cov=onnx_admm --cov-branch --cov-report=term:skip-covered --cov-fail-under=90 "$@"

.venv-runtime/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
.venv-runtime/bin/python -I tests/deployment/check.py "$kept"
.venv-runtime/bin/onnx-admm compress --quiet "$kept"/*every_form-dense-1/model.onnx "$kept/again.onnx"
