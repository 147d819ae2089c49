# `make demo` and `make test` work on a clean clone with Python 3.11+, pip, make and a C compiler.
# `make help` lists the targets. CI calls these same targets (.ci/run).

PYTHON3 ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
INSTALLED := $(VENV)/.installed
PIP := $(PYTHON) -m pip --disable-pip-version-check
# Passed to every `pip install`: an index, a proxy, --quiet.
PIP_FLAGS ?=

# Two pytest workers with one thread each are the fastest way through the tests on two cores.
WORKERS ?= 2
PYTEST_FLAGS ?=
PYTEST = $(PYTHON) -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_FLAGS)
LEDGER = $(PYTHON) scripts/ledger.py run

# Real worker processes first, then the same question in virtual time.
DEMO_RUN_CONFIG ?= examples/mnist_processes.toml
DEMO_RUN_OUT ?= runs/mnist-processes
DEMO_RUN_FLAGS ?= --overwrite
DEMO_RUN_SHORT_OUT ?= build/mnist-processes-short
DEMO_RUN_SHORT_FLAGS ?= --overwrite --set runtime.num_workers=2 --set stop.updates=40
DEMO_CONFIG ?= examples/mnist_race.toml
DEMO_OUT ?= runs/mnist-race
DEMO_FLAGS ?= --overwrite
DEMO_SHORT_OUT ?= build/mnist-race-short
DEMO_SHORT_FLAGS ?= --overwrite --set 'seeds=[0]' --set stop.virtual_time_s=30
DEMO_RUN = $(PYTHON) -m headway run $(DEMO_RUN_CONFIG) --out $(DEMO_RUN_OUT) $(DEMO_RUN_FLAGS)
DEMO = $(PYTHON) -m headway compare $(DEMO_CONFIG) --out $(DEMO_OUT) $(DEMO_FLAGS)
ifdef DEMO_SHORT
DEMO_RUN = $(PYTHON) -m headway run $(DEMO_RUN_CONFIG) --out $(DEMO_RUN_SHORT_OUT) $(DEMO_RUN_SHORT_FLAGS)
DEMO = $(PYTHON) -m headway compare $(DEMO_CONFIG) --out $(DEMO_SHORT_OUT) $(DEMO_SHORT_FLAGS)
endif

BENCHMARKS = $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.PHONY: help install demo demo-short test fast check format bench clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "make %-11s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make .venv and install Headway in it, editable, with all that development needs

$(PYTHON):
	@command -v $(PYTHON3) >/dev/null || \
	  { echo "error: no $(PYTHON3) here. Headway needs Python 3.11 or newer; name it with: make PYTHON3=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Headway needs Python 3.11 or newer, and $(PYTHON3) is $$($(PYTHON3) -V 2>&1). Name another with: make PYTHON3=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON3) -m venv $(VENV)

# Torch comes first and alone: with the pinned version in place, no later requirement, which would
# be content with any newer one, can bring another build of it along.
$(INSTALLED): pyproject.toml constraints.txt | $(PYTHON)
	$(PIP) install $(PIP_FLAGS) -c constraints.txt torch hatchling
	$(PIP) install $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[data,dev]'
	@touch $@

demo: $(INSTALLED) ## train on real digits with and without waiting: worker processes, then virtual time
	$(DEMO_RUN)
	$(DEMO)

demo-short: ## the same race, cut short (also: make demo DEMO_SHORT=1)
	@$(MAKE) --no-print-directory demo DEMO_SHORT=1

test: $(INSTALLED) ## run all tests, the doctests and the short demo
	$(LEDGER) tests -- $(PYTEST) -m "" --ledger
	$(LEDGER) demo-short -- $(MAKE) --no-print-directory demo-short

fast: $(INSTALLED) ## run the fast tests only
	$(PYTEST)

check: $(INSTALLED) ## check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: $(INSTALLED) ## format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## run every benchmark
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(PYTHON) "$$file"; done

clean: ## remove everything that make and the tools have made, .venv and runs included
	rm -rf $(VENV) build dist runs .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
