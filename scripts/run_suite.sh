#!/usr/bin/env bash
# run_suite.sh ENVIRONMENT PART [PYTEST ARGUMENTS]: installs the wheel of dist/ in an environment and runs a part of
# the suite against it, from a folder where the checkout cannot be imported. Its output is kept in ENVIRONMENT/PART.log.
set -euo pipefail
cd "$(dirname "$0")/.."
checkout=$PWD
environment=$checkout/$1
log=$environment/$2.log
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$environment/bin/python" -m pip install --quiet --no-deps --force-reinstall "$checkout"/dist/*.whl
cp -r tests pyproject.toml "$work"
cd "$work"
export ONNX_ADMM_REPOSITORY=$checkout
"$environment/bin/python" -I -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal "$@" 2>&1 |
    tee "$log"
