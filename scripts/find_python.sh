#!/usr/bin/env bash
# find_python.sh RELEASE...: prints a Python that runs, has one of the releases given and can make environments:
# python3 where it has, else one of the first release that is found. Prints nothing where there is none.
# A command of the right name is not enough: pyenv's exist for releases that are not switched on, and fail.
set -uo pipefail
releases=" $* "
candidates=(python3)
for release in "$@"; do
    candidates+=("python$release" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$release".*/bin/python)
done
check='import ensurepip, sys, venv; sys.exit(" %d.%d " % sys.version_info[:2] not in sys.argv[1])'
for candidate in "${candidates[@]}"; do
    if "$candidate" -c "$check" "$releases" > /dev/null 2>&1; then
        command -v "$candidate"
        break
    fi
done
