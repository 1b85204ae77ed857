# `make demo` and `make test` need nothing but Python 3.11 or newer, g++ and make: each makes .venv if there is none,
# installs torch and vzoom into it, and does its job. Stamp files in the environment keep a second run from installing.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= 2.13.0
# Whether the CUDA kernels are compiled: only where they can run. (Plain `pip install` compiles them where nvcc is found.)
CUDA ?= $(if $(or $(wildcard /proc/driver/nvidia/version),$(shell command -v nvidia-smi)),ON,OFF)
# More for pytest, for example: make test ARGS='-m "not slow" -k protocol'
ARGS ?=
# Folder with the environments of the peers, for bench-peers.
PEERS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# What the extension is built from: a change there installs again. Python files are read from the tree.
SOURCES := pyproject.toml CMakeLists.txt $(shell find csrc -type f)

.PHONY: help demo test test-extras fuzz sanitize sanitize-small lint format docs bench bench-peers test-oldest clean
.DELETE_ON_ERROR:

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.package ## install, render a video, and watch the embedded model zoom into it
	$(BIN)/vzoom demo

test: $(VENV)/.test ## install and run the tests; ARGS='…' goes to pytest
	$(BIN)/python tests/fetch_tokenizers.py
	$(BIN)/pytest $(ARGS)

test-extras: $(VENV)/.test ## the tests that need Ray or lmms-eval, which it installs
	$(PIP) install -q 'ray>=2.40' -e '.[lmms]' -C cmake.define.VZOOM_CUDA=$(CUDA)
	$(PIP) install -q --no-deps lmms-eval==0.7.3
	$(BIN)/pytest tests/test_lmms.py tests/test_eval_kill.py $(ARGS)

fuzz: $(VENV)/.test ## every fuzzer of tests/fuzz, each for minutes
	@for fuzzer in $(wildcard tests/fuzz/*.py); do \
	    echo "$$fuzzer --long"; \
	    OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python $$fuzzer --long || exit 1; \
	done

sanitize: $(VENV)/.test ## the C++ under AddressSanitizer and UBSan: all tests of the kernels, and 50 000 calls of the fuzzer
	@.ci/sanitize $(BIN)/python

sanitize-small: $(VENV)/.test ## the same of the plain C++ alone, in a minute
	@.ci/sanitize $(BIN)/python small

lint: $(VENV)/.dev ## ruff (rules and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## build the site into docs/_build; a warning is an error
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build
	@echo docs/_build/index.html

bench: $(VENV)/.test ## the micro-benchmarks, one thread; ARGS='…' goes to pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest bench --benchmark-only $(ARGS)

bench-peers: $(VENV)/.test ## beside vLLM and transformers, of PEERS=folder (docs/benchmarks.md); ARGS='…' goes to the commands
	$(BIN)/python bench/bench_session.py $(if $(PEERS),--peers $(PEERS)) $(ARGS)
	$(BIN)/python bench/bench_rollout.py $(if $(PEERS),--peers $(PEERS)) $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python bench/bench_context.py
	$(BIN)/python bench/write_tables.py

test-oldest: ## the tests at the oldest versions that pyproject.toml names, in .venv-oldest
	$(MAKE) test VENV=.venv-oldest TORCH=$$(sed -n 's/^torch==//p' .ci/oldest.txt) PIP_CONSTRAINT=$(CURDIR)/.ci/oldest.txt

clean: ## remove the environments and everything built
	rm -rf .venv .venv-* build dist docs/_build docs/api .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# ---------------------------------------------------------------- installing

# A constraint file reaches pip, and the builds that pip starts, through the environment.
ifdef PIP_CONSTRAINT
export PIP_CONSTRAINT
endif

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("vzoom needs Python 3.11 or newer; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: | $(BIN)/python
	@.ci/install-torch $(BIN)/python $(TORCH)
	@touch $@

$(VENV)/.package: $(SOURCES) $(VENV)/.torch
	$(PIP) install -q -C cmake.define.VZOOM_CUDA=$(CUDA) -e .
	@touch $@

$(VENV)/.test: $(SOURCES) $(VENV)/.torch
	$(PIP) install -q -C cmake.define.VZOOM_CUDA=$(CUDA) -e '.[test]'
	@touch $(VENV)/.package $@

$(VENV)/.dev: $(SOURCES) $(VENV)/.torch
	$(PIP) install -q -C cmake.define.VZOOM_CUDA=$(CUDA) -e '.[dev]'
	@touch $(VENV)/.package $(VENV)/.test $@

$(VENV)/.docs: $(SOURCES) $(VENV)/.torch
	$(PIP) install -q -C cmake.define.VZOOM_CUDA=$(CUDA) -e '.[docs]'
	@touch $(VENV)/.package $@
