# What can be done here, in words: `make help`.

SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers fit the smallest machine that CI has; the tests wait more than they compute.
JOBS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo setup fmt check test shape bench docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv and install the project with its tools

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed and was not found." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "The module venv is missing: install it (Debian: apt-get install -y python3-venv)." >&2; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## Run the main job on this machine, no server needed: a census of the standard library
	@$(BIN)/python -m examples.census

check: $(STAMP) ## Lint and type-check
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/ruff format --check src tests examples benchmarks docs
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

test: $(STAMP) check ## Check, bring up the servers that tests need, run every test
	$(BIN)/python -m tests.servers ensure
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

shape: $(STAMP) ## Run the tests of the code's shape alone
	$(BIN)/python -m pytest tests/shape

fmt: $(STAMP) ## Format the code and sort its imports
	$(BIN)/ruff check --fix --quiet src tests examples benchmarks docs
	$(BIN)/ruff format src tests examples benchmarks docs

bench: $(STAMP) ## Measure the engine against bare Redis and Celery, in one run
	@test -x $(VENV)-bench/bin/python || { $(PYTHON) -m venv $(VENV)-bench && \
		$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check 'celery[redis]==5.7.0'; }
	$(BIN)/python benchmarks/engine.py --celery $(VENV)-bench/bin/python

docs: $(STAMP) ## Write the generated reference pages anew
	for page in docs/generate_*.py; do $(BIN)/python $$page; done

clean: ## Remove what the other commands have made
	rm -rf $(VENV) $(VENV)-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
