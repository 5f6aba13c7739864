# The project's verbs, the same on a laptop and in CI. PYTHON names the interpreter that .venv is made from;
# ARGS is handed to pytest, e.g. `make test ARGS="-k merge -x"`; JOBS is how many processes test at the same time.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
ARGS ?=
JOBS ?= $(shell nproc)
BIN := .venv/bin

export PYTHON
export DAGSTER_HOME := $(CURDIR)
export DAGSTER_DISABLE_TELEMETRY := 1
# Without compiled bytecode every Dagster process starts 2 seconds later.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPYCACHEPREFIX

PACKAGE := ringrift_sync_dagster
# The trees that are there: bench/ appears with the first benchmark.
TREES := $(PACKAGE) $(wildcard tests bench)

.PHONY: help setup check test demo dev cluster bench soak mutants clean
.PHONY: check-ruff check-format check-mypy check-imports check-kit check-definitions

help: ## Show the verbs.
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: ## Create .venv, install what constraints.txt pins; nothing to do takes no time.
	@deploy/setup.sh

check: setup ## Lint, format, types, layers, the kit's Python version, and that Dagster loads the definitions.
	@$(MAKE) --no-print-directory -k -j2 -O check-mypy check-definitions check-imports check-kit check-ruff check-format

check-ruff:
	@$(BIN)/ruff check --quiet . && echo "ruff check: ok"

check-format:
	@$(BIN)/ruff format --check --quiet --output-format concise . && echo "ruff format: ok" || { echo "ruff format: run '$(BIN)/ruff format .'"; exit 1; }

check-mypy:
	@$(BIN)/mypy $(TREES)

check-imports:
	@$(BIN)/lint-imports

# Python 3.8 is the oldest that a node may have: syntax and library calls of the kit. The excluded name is vermin's
# guess for `value.is_integer()` of a float, which every Python knows.
check-kit:
	@$(BIN)/vermin --quiet --no-tips --violations -t=3.8- --exclude int.is_integer $(PACKAGE)/node $(PACKAGE)/__init__.py && echo "vermin: the kit runs on Python 3.8"

# The warning says that `dg check defs` supersedes this command; dg is a tool of developers only.
check-definitions:
	@PYTHONWARNINGS=ignore:Function $(BIN)/dagster definitions validate --log-level warning -w workspace.yaml && echo "dagster definitions: ok"

test: setup ## Run the tests, all but those of `cluster`, `soak` and `mutants`.
	@$(BIN)/python -m pytest tests --ignore=tests/mutants -m "not cluster and not soak and not mutants" \
		-n $(JOBS) --dist load $(ARGS)

cluster: setup ## Run the tests that need the embedded cluster.
	@deploy/setup.sh initdb:postgresql
	@$(BIN)/python -m pytest tests --ignore=tests/mutants -m "cluster and not soak" -o timeout=600 \
		-n $(JOBS) --dist load $(ARGS)

# pytest ends with 5 when no test was selected.
soak: setup ## Run the long tests.
	@rc=0; $(BIN)/python -m pytest tests --ignore=tests/mutants -m soak -o timeout=3600 $(ARGS) || rc=$$?; \
	if [ $$rc -eq 5 ]; then echo "There is no soak test yet."; rc=0; fi; exit $$rc

mutants: setup ## Break the code on purpose; each break must make a test fail.
	@if compgen -G 'tests/mutants/*.py' >/dev/null; then \
		if [ -f tests/mutants/__main__.py ]; then $(BIN)/python -m tests.mutants $(ARGS); \
		else $(BIN)/python -m pytest tests/mutants -o timeout=3600 $(ARGS); fi; \
	else echo "There are no mutants yet."; fi

bench: setup ## Measure: prints numbers, judges nothing.
	@if [ -f bench/__main__.py ]; then $(BIN)/python -m bench $(ARGS); \
	elif compgen -G 'bench/*.py' >/dev/null; then \
		for program in bench/*.py; do echo "== $$program"; $(BIN)/python "$$program" $(ARGS); done; \
	else echo "There are no benchmarks yet."; fi

demo: setup ## A coordinator and four nodes on loopback play and are synced, one vanishes; what arrived is judged.
	@$(BIN)/python -m $(PACKAGE).demo

dev: setup ## The same cluster, and Dagster's UI on 127.0.0.1; ends with Ctrl-C.
	@$(BIN)/python -m $(PACKAGE).demo dev

clean: ## Remove caches and what was built; keeps .venv and .ringrift.
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
