# What can be done here, in words: `make help`. `make setup PYTHON=...` chooses an interpreter.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Every system that is compared has an environment of its own below this one.
BENCH := $(VENV)-bench
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
CODE := src tests examples benchmarks docs
# Tests wait more than they compute.
JOBS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo setup fmt check servers test shape chaos guarantees rabbitmq workflows transactions soak bench weigh docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Stamps: what they name is installed anew only when pyproject.toml has changed.
$(VENV)/.run: pyproject.toml
	@PYTHON="$(PYTHON)" tools/venv.sh $(VENV)
	@echo "Installing celeriac into $(VENV) ..."
	@$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the tools of its developers ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.run ## Run a census of this Python's standard library; needs no server
	@$(BIN)/python -m examples.census

setup: $(VENV)/.dev ## Make .venv and install the project and its tools, if pyproject.toml changed

fmt: $(VENV)/.dev ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only --quiet $(CODE)
	$(BIN)/ruff format $(CODE)

check: $(VENV)/.dev ## Lint, check types and layers
	@failed=0; \
	for command in 'ruff check $(CODE)' 'ruff format --check $(CODE)' mypy \
			'pyright --pythonpath $(BIN)/python' lint-imports; do \
		echo "$$command"; $(BIN)/$$command || failed=1; \
	done; exit $$failed

servers: $(VENV)/.dev ## See to it that tests find Redis, PostgreSQL and RabbitMQ servers; installs them as root
	@$(BIN)/python -m tests.servers ensure

test: $(VENV)/.dev servers ## Run the checks and every test; the line that counts is the last
	@$(MAKE) --no-print-directory check; checked=$$?; \
	[ $$checked = 0 ] || echo "A check has failed: the tests run, and then this fails." >&2; \
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup && exit $$checked

shape: $(VENV)/.dev ## Run the tests of the code's shape alone: a few seconds
	$(BIN)/python -m pytest tests/shape
	$(BIN)/lint-imports

chaos: $(VENV)/.dev servers ## Break everything at once and account for every task: MINUTES=10 SEED=7
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED)) $(CHAOS)

workflows: $(VENV)/.dev servers ## Run random workflows while children are killed: COUNT=1000 SEED=7 BROKER=sqlite
	$(BIN)/python -m tests.workflows --workflows $(or $(COUNT),1000) $(if $(SEED),--seed $(SEED)) \
		$(if $(BROKER),--broker $(BROKER)) $(WORKFLOWS)

transactions: $(VENV)/.dev servers ## Send tasks within transactions that commit, roll back and crash: COUNT=10000 SEED=7
	$(BIN)/python -m tests.transactions --transactions $(or $(COUNT),10000) $(if $(SEED),--seed $(SEED))

guarantees: $(VENV)/.dev servers ## Run the tests of the promises alone, on other brokers too: GROUNDS=cluster, GROUNDS=rabbitmq
	$(if $(GROUNDS),CELERIAC_TEST_GROUNDS="$(GROUNDS)") $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup tests/guarantees

rabbitmq: $(VENV)/.dev servers ## Run the tests of RabbitMQ alone, and one that kills it, which `make test` leaves out
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m 'rabbitmq or private_rabbitmq' tests/brokers tests/worker tests/guarantees tests/chaos

soak: $(VENV)/.dev servers ## Run a day's tasks within minutes and judge what each process keeps: MINUTES=10 BROKER=sqlite
	$(BIN)/python -m tests.soak --minutes $(or $(MINUTES),10) $(if $(BROKER),--broker $(BROKER)) $(SOAK)

bench: $(VENV)/.run ## Compare with Celery and others in one run: ROW=latency SYSTEM=rq QUICK=1 KEEP=1; or BROKERS=1
	@PYTHON="$(PYTHON)" $(BIN)/python benchmarks/install.py $(BENCH) \
		$(if $(BROKERS),celeriac celery,$(if $(SYSTEM),celeriac celery bare $(SYSTEM)))
ifdef BROKERS
	$(BENCH)/celeriac/bin/python benchmarks/brokers.py $(BENCH) $(if $(POSTGRES),--postgres $(POSTGRES)) \
		$(if $(RABBITMQ),--rabbitmq $(RABBITMQ))
else
	$(BENCH)/celeriac/bin/python benchmarks/compare.py $(BENCH) $(if $(ROW),--row $(ROW)) \
		$(if $(SYSTEM),--system $(SYSTEM)) $(if $(QUICK),--quick) $(if $(KEEP),--keep)
endif

weigh: $(VENV)/.run ## Weigh the worker of one queue of an application with heavy libraries, ours and Celery's
	@PYTHON="$(PYTHON)" $(BIN)/python benchmarks/install.py $(BENCH) memory_table
	$(BENCH)/memory_table/bin/python benchmarks/memory_table.py

docs: $(VENV)/.dev ## Write the generated pages anew
	for page in docs/generate_*.py; do $(BIN)/python $$page || exit 1; done

clean: ## Remove what the other commands have made
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
