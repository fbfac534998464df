# Every task of the project; `make help` lists them.

PYTHON ?= python3
TORCH_ARGS ?=
DEMO_ARGS ?= --out out
UP_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALL := $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check

# Our processes share the cores: one thread each for the numeric libraries unless a worker says otherwise.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo up test test-units test-processes check test-chaos bench docs lock clean

help: ## Show what there is
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make .venv and install everything from the lock (TORCH_ARGS: pip options for another torch)

demo: $(INSTALLED) ## Edit two pictures on this machine and show them, before and after
	$(BIN)/darkroom demo $(DEMO_ARGS)

up: $(INSTALLED) ## Start the whole service here (UP_ARGS="--port 8001 --workers 2"); Ctrl-C stops it
	@exec $(BIN)/darkroom up $(UP_ARGS)

test: check ## Everything that must be green before a commit; the two halves beside each other
	@$(MAKE) --no-print-directory -j 2 --output-sync=target test-units test-processes

test-units: $(INSTALLED) ## Units, contracts, properties: what runs in one process
	$(BIN)/python -m pytest -m "not (processes or chaos or gpu)" $(TEST_ARGS)

test-processes: $(INSTALLED) ## Real processes, real signals, one scaled scenario for each fault
	$(BIN)/python -m pytest -m "processes and not (chaos or gpu)" $(TEST_ARGS)

check: $(INSTALLED) ## Lint, format, types, layers and the rules of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture

test-chaos: $(INSTALLED) ## Full-size fault runs with real processes and signals
	$(BIN)/python -m pytest -m chaos $(TEST_ARGS)

bench: $(INSTALLED) ## Measure engines and service against plain diffusers, and draw the figures (about 15 minutes)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

docs: $(INSTALLED) ## Write docs/schema.md and docs/settings.md anew from the code
	$(BIN)/python docs/generate.py

lock: ## Choose the versions of all dependencies anew (needs uv)
	uv pip compile pyproject.toml --all-extras --python-version 3.11 --generate-hashes --no-header --no-emit-package torch \
	  --output-file requirements/lock.txt

clean: ## Remove everything that can be made again, but no data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes last and with what it needs: its builds differ in that (the lock already has all of the CPU build's).
$(INSTALLED): requirements/torch.txt requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "setting up .venv; the first time this takes a few minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --no-deps --require-hashes -r requirements/lock.txt
	$(INSTALL) -r requirements/torch.txt $(TORCH_ARGS)
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
