# `make help` lists the targets. PYTHON picks the interpreter that makes the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check format docs bench bench-lossless bench-int8 bench-calibration corpus mutants clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/installed  ## set up, then quantize a real model and report
	$(BIN)/onnxcomp optimize models/digits_cnn.onnx --int8 --calib models/digits.npz -o $(VENV)/digits_cnn.int8.onnx

test: $(VENV)/installed  ## set up, then run every test
	$(BIN)/python -m pytest

check: $(VENV)/installed  ## lint, format, types, and that the generated docs are current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

format: $(VENV)/installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed  ## write docs/passes/*.md from the code and the case pages
	$(BIN)/python docs/generate.py

bench: $(VENV)/installed  ## time and size of every model in models/, lossless and int8
	$(BIN)/python benchmarks/overview.py

bench-lossless: $(VENV)/installed  ## compare with other optimizers on public models; writes the tables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[bench]'
	$(BIN)/python benchmarks/lossless.py --write $(ARGS)

bench-int8: $(VENV)/installed  ## compare int8 quantizers; with ONNXCOMP_CORPUS set, on its models too
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[bench]'
	$(BIN)/python benchmarks/int8.py --write $(ARGS)

bench-calibration: $(VENV)/installed  ## compare calibrators; writes docs/benchmarks/calibration.md
	$(BIN)/python benchmarks/calibration.py --write $(ARGS)

corpus: $(VENV)/installed  ## the tests on real models; set ONNXCOMP_CORPUS to their folder
	$(BIN)/python -m pytest tests/corpus

mutants: $(VENV)/installed  ## put small errors into the passes and list those that no test finds
	$(BIN)/python tests/mutation/run.py

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
