# Everything happens in .venv; each command prepares what it needs.
# Another interpreter: make setup PYTHON=python3.12
# make test-runtime has an environment for each interpreter, in .venv-runtime.

PYTHON ?= python3
PYTEST_ARGS ?=
DEMO_OUT ?= out/demo
FUZZ_COUNT ?= 1000
FUZZ_ARGS ?=

BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
INSTALLED := .venv/.installed
# torch's exact pin, asked for on its own: a range would let pip take a newer build with CUDA.
TORCH := $(shell sed -n 's/^torch==/&/p' constraints.txt)
RUNTIME := .venv-runtime/$(notdir $(PYTHON))
HAS_RTX := $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -))

.DEFAULT_GOAL := help
.PHONY: help setup test test-all test-runtime fuzz demo lint format

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(INSTALLED)  ## create .venv and install everything that development needs

# One thread each: the workers fill the cores, and OpenMP waits badly for cores that are taken. In the order of the
# folders: by default the files with the fewest tests come last, and those are the longest.
test: export OMP_NUM_THREADS := 1
test: setup  ## run the tests
	$(PYTEST) -m "not exhaustive" $(PYTEST_ARGS)

test-all: export OMP_NUM_THREADS := 1
test-all: setup  ## run those too that repeat for further models what another test shows
	$(PYTEST) $(PYTEST_ARGS)

test-runtime: export OMP_NUM_THREADS := 1
test-runtime: $(RUNTIME)/.installed  ## run the runtime's tests without torch; PYTHON=python3.10 for its ONNX Runtime 1.23
	$(RUNTIME)/bin/python -m pytest tests/runtime $(PYTEST_ARGS)

fuzz: export OMP_NUM_THREADS := 1
fuzz: setup  ## run mutated inputs; FUZZ_COUNT=100000 of each kind, FUZZ_ARGS="--kinds onnx --seed 7 --keep out/fuzz"
	$(BIN)/python tests/fuzz/run_fuzz.py --count $(FUZZ_COUNT) $(FUZZ_ARGS)

demo: setup  ## export, compile, run and benchmark a small model on built-in pictures
	@$(BIN)/python benchmarks/demo.py --out $(DEMO_OUT)

lint: setup  ## check style and types
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

format: setup  ## format the code and apply the linter's safe fixes
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))" || \
	  { echo "$$($(PYTHON) --version) found, expected 3.10 to 3.13: make setup PYTHON=python3.12"; exit 1; }
	@echo "Installing into .venv; the first time this takes a few minutes."
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) "$(TORCH)"
	@$(PIP) --editable ".[dev]"
	@$(PIP) --editable ".[openvino]" || echo "OpenVINO could not be installed: its tests are skipped."
	@$(if $(HAS_RTX),$(PIP) --editable ".[tensorrt-rtx]" || \
	  echo "TensorRT-RTX could not be installed: what needs it is skipped.")
	@touch $@

$(RUNTIME)/.installed: runtime/pyproject.toml constraints.txt
	@echo "Installing into $(RUNTIME); the first time this takes a minute."
	@$(RUNTIME)/bin/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(RUNTIME)
	@$(RUNTIME)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt \
	  --editable "./runtime[onnxruntime]" onnx hypothesis pillow pycocotools pytest
	@touch $@
