# Every target does its own set-up with pip alone, in four environments that are renewed when
# pyproject.toml changes:
#   .venv          the checkout, editable, with a current ONNX Runtime and the development tools
#   .venv-wheel    the built wheel with onnxruntime-training, whose runtime is old: both trainers, under test
#   .venv-lowest   the same with the lowest declared version of every dependency
#   .venv-docs     the checkout with mkdocs, for make docs alone
#   .venv-runtime  the built wheel with a current ONNX Runtime: what users install, and where models are deployed

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: docs help demo test lint types unit wheel wheel-tests test-lowest test-models faults fuzz clean

# Any Python from 3.11 on will do. onnxruntime-training needs 3.11 or 3.12; the lowest versions are tested on the
# lowest Python, what users install on 3.13 where there is one.
PYTHON ?= $(or $(shell scripts/find_python.sh 3.12 3.11 3.13 3.14),python3)
TRAINING_PYTHON ?= $(or $(shell scripts/find_python.sh 3.12 3.11),$(PYTHON))
LOWEST_PYTHON ?= $(or $(shell scripts/find_python.sh 3.11),$(TRAINING_PYTHON))
RUNTIME_PYTHON ?= $(or $(shell scripts/find_python.sh 3.13),$(PYTHON))
export PYTHONNOUSERSITE := 1
unexport PYTHONPATH
# Tests are small: a pool of BLAS threads only slows them.
unit wheel-tests test-lowest test-models fuzz: export OMP_NUM_THREADS := 1

help:
	@echo "make demo         train LeNet-5 from scratch and compress it: demo/lenet5-small.onnx, demo/report.json"
	@echo "make test         everything CI checks: lint, types, the wheel's tests, a current ONNX Runtime, test-lowest"
	@echo "make test-lowest  the core of the tests with the lowest declared version of every dependency"
	@echo "make test-models  the bare command on every real model: those too slow for make test"
	@echo "make fuzz         mutants of every file format for MINUTES=10, each judged: a result or a sentence"
	@echo "make lint         ruff: rules and format"
	@echo "make types        mypy --strict over the three packages, and that it finds a planted error in each"
	@echo "make unit         the tests against the checkout (ARGS='-k solver' for some of them)"
	@echo "make faults  every file-system call of a run fails or ends the process, in each way: minutes"
	@echo "make docs         the documentation as a site, with a reference from the docstrings: build/site"
	@echo "make clean        remove environments, builds and the demo"

# -- what people run -------------------------------------------------------------------------

demo: .venv/.ready
	PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/demo.sh

test: lint types wheel-tests test-lowest
	@tail -n 1 .venv-wheel/fast.log .venv-wheel/slow.log .venv-lowest/fast.log

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/.ready
	.venv/bin/mypy
	.venv/bin/python scripts/planted_type_errors.py

unit: .venv/.ready
	.venv/bin/python -m pytest $(ARGS)

faults: .venv/.ready
	ONNX_ADMM_ALL_FAULTS=1 .venv/bin/python -m pytest tests/faults $(ARGS)

wheel-tests: .venv-wheel/.ready .venv-runtime/.ready wheel
	scripts/test_wheel.sh $(ARGS)

test-lowest: .venv-lowest/.ready wheel
	scripts/test_lowest.sh $(ARGS)

test-models: .venv/.ready
	.venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 -m every_model $(ARGS)

fuzz: .venv/.ready
	.venv/bin/python tests/fuzz/fuzz_run.py --minutes $(or $(MINUTES),10) $(ARGS)

docs: .venv-docs/.ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

wheel: .venv/.ready
	rm -rf dist build
	.venv/bin/python -m build --no-isolation --outdir dist > .venv/build.log 2>&1 || { cat .venv/build.log; exit 1; }

clean:
	rm -rf .venv .venv-docs .venv-wheel .venv-lowest .venv-runtime build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f .coverage

# -- environments ----------------------------------------------------------------------------

.venv/.ready: pyproject.toml
	@$(call create,.venv,$(PYTHON),3.11 3.12 3.13 3.14)
	.venv/bin/python -m pip install --quiet --editable '.[runtime,images,dev]'
	@touch $@

.venv-wheel/.ready: pyproject.toml | wheel
	@$(call create,.venv-wheel,$(TRAINING_PYTHON),3.11 3.12)
	.venv-wheel/bin/python -m pip install --quiet "$$(echo dist/*.whl)[training,images,test]"
	@touch $@

.venv-lowest/.ready: pyproject.toml | wheel
	@$(call create,.venv-lowest,$(LOWEST_PYTHON),3.11 3.12)
	.venv-lowest/bin/python scripts/lowest_versions.py training images plots test > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt \
	    "$$(echo dist/*.whl)[training,images,plots,test]"
	@touch $@

.venv-docs/.ready: pyproject.toml
	@$(call create,.venv-docs,$(RUNTIME_PYTHON),3.11 3.12 3.13 3.14)
	.venv-docs/bin/python -m pip install --quiet --editable '.[docs]'
	@touch $@

.venv-runtime/.ready: pyproject.toml | wheel
	@$(call create,.venv-runtime,$(RUNTIME_PYTHON),3.11 3.12 3.13 3.14)
	.venv-runtime/bin/python -m pip install --quiet "$$(echo dist/*.whl)[runtime,images,test]"
	@touch $@

# create FOLDER, PYTHON, RELEASES: an environment made by a Python of one of the releases.
define create
command -v $(2) > /dev/null || \
    { echo "no Python found as $(2): name one, as in make test PYTHON=python3.12" >&2; exit 1; }; \
$(2) -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] not in "$(3)".split())' || \
    { echo "$(2) is $$($(2) --version 2>&1), and $(1) needs one of $(3):" \
           "name one, as in make test PYTHON=python3.12" >&2; exit 1; }; \
$(2) -c 'import ensurepip, venv' || \
    { echo "$(2) cannot make environments: install its venv module (python3-venv on Debian)" >&2; exit 1; }; \
test -x $(1)/bin/python || { echo "setting up $(1) with $$($(2) --version)"; $(2) -m venv $(1); }
endef
