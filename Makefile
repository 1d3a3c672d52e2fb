# Every target does its own set-up with pip alone, in three environments that are renewed when
# pyproject.toml changes:
#   .venv          the checkout, editable, with the training runtime and the development tools
#   .venv-wheel    the built wheel with the training runtime: what users install, under test
#   .venv-runtime  the built wheel with a current ONNX Runtime: where compressed models are deployed

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types unit wheel wheel-tests clean

PYTHON ?= python3
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH
# Tests are small: a pool of BLAS threads only slows them.
unit wheel-tests: export OMP_NUM_THREADS := 1

help:
	@echo "make demo    train LeNet-5 from scratch and compress it: demo/lenet5-small.onnx, demo/report.json"
	@echo "make test    everything CI checks: lint, types, the wheel's tests, a current ONNX Runtime"
	@echo "make lint    ruff: rules and format"
	@echo "make types   mypy --strict over the three packages, and that it finds a planted error in each"
	@echo "make unit    the tests against the checkout (ARGS='-k solver' for some of them)"
	@echo "make clean   remove environments, builds and the demo"

# -- what people run -------------------------------------------------------------------------

demo: .venv/.ready
	PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/demo.sh

test: lint types wheel-tests

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.ready
	.venv/bin/mypy
	.venv/bin/python scripts/planted_type_errors.py

unit: .venv/.ready
	.venv/bin/python -m pytest $(ARGS)

wheel-tests: .venv-wheel/.ready .venv-runtime/.ready wheel
	scripts/test_wheel.sh $(ARGS)

wheel: .venv/.ready
	rm -rf dist build
	.venv/bin/python -m build --no-isolation --outdir dist > .venv/build.log 2>&1 || { cat .venv/build.log; exit 1; }

clean:
	rm -rf .venv .venv-wheel .venv-runtime build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f .coverage

# -- environments ----------------------------------------------------------------------------

.venv/.ready: pyproject.toml
	@$(call create,.venv)
	.venv/bin/python -m pip install --quiet --editable '.[training,images,dev]'
	@touch $@

.venv-wheel/.ready: pyproject.toml | wheel
	@$(call create,.venv-wheel)
	.venv-wheel/bin/python -m pip install --quiet "$$(echo dist/*.whl)[training,images,test]"
	@touch $@

.venv-runtime/.ready: pyproject.toml | wheel
	@$(call create,.venv-runtime)
	.venv-runtime/bin/python -m pip install --quiet "$$(echo dist/*.whl)[runtime,images]"
	@touch $@

define create
command -v $(PYTHON) > /dev/null || \
    { echo "no Python found as $(PYTHON): name one, as in make test PYTHON=python3.12" >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
    { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), and fine-tuning needs Python 3.11 or 3.12:" \
           "name one, as in make test PYTHON=python3.12" >&2; exit 1; }; \
test -x $(1)/bin/python || { echo "setting up $(1)"; $(PYTHON) -m venv $(1); }
endef
