#!/usr/bin/env bash
# Runs the core of the suite against the wheel with the lowest declared version of every dependency: all tests
# but those marked slow. Old releases warn about the newer ones they meet, so warnings are no errors here.
# Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/run_suite.sh .venv-lowest -m "not slow and not every_model" -o filterwarnings= --disable-warnings "$@"
