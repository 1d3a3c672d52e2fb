#!/usr/bin/env bash
# Runs the core of the suite against the wheel with the lowest declared version of every dependency: all tests
# but those marked slow, of single gradient and lint rules, and of the project's texts. Old releases warn about the
# newer ones they meet, so warnings are no errors here. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/run_suite.sh .venv-lowest fast -m "not slow and not every_model" \
    --ignore=tests/training/gradients --ignore=tests/lint/test_rules.py --ignore=tests/project \
    -o filterwarnings= --disable-warnings "$@"
