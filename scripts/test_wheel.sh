#!/usr/bin/env bash
# Runs the suite against the installed wheel, and measures what its fast tests cover: measuring makes tests take
# nearly twice as long. Then, with a current ONNX Runtime and no training package, runs what the end-to-end tests
# wrote, compresses once, and runs the tests of training. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT

export ONNX_ADMM_E2E_OUT=$kept
scripts/run_suite.sh .venv-wheel fast -m "not slow and not every_model" \
    --cov=onnx_admm --cov-branch --cov-report=term:skip-covered --cov-fail-under=90 "$@"
scripts/run_suite.sh .venv-wheel slow -m "slow and not every_model" "$@"

.venv-runtime/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.whl
.venv-runtime/bin/python -I tests/deployment/check.py "$kept"
.venv-runtime/bin/onnx-admm compress --quiet "$kept"/*every_form-dense-1/model.onnx "$kept/again.onnx"
scripts/run_suite.sh .venv-runtime training tests/training/test_trainer_contract.py \
    tests/training/test_training_session.py tests/end_to_end/test_fine_tunes_anywhere.py
