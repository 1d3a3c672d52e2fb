#!/usr/bin/env bash
# Runs the suite against the installed wheel, from a folder where the checkout cannot be imported;
# then runs what the end-to-end tests wrote in a current ONNX Runtime, and compresses there once, without
# fine-tuning. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
wheel=$(echo "$checkout"/dist/*.whl)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for environment in .venv-wheel .venv-runtime; do
    "$environment/bin/python" -m pip install --quiet --no-deps --force-reinstall "$wheel"
done

cp -r tests pyproject.toml "$work"
cd "$work"
export ONNX_ADMM_REPOSITORY=$checkout ONNX_ADMM_E2E_OUT=$work/end-to-end
"$checkout/.venv-wheel/bin/python" -I -m pytest --cov=onnx_admm --cov-branch --cov-report=term:skip-covered \
    --cov-fail-under=90 "$@"
"$checkout/.venv-runtime/bin/python" -I tests/deployment/check.py "$ONNX_ADMM_E2E_OUT"
"$checkout/.venv-runtime/bin/onnx-admm" compress --quiet "$ONNX_ADMM_E2E_OUT"/*every_form-dense-1/model.onnx again.onnx
