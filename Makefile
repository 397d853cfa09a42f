# Every target does its own set-up: see `make help`, tools/setup.sh and docs/installation.md.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV_PYTHON := .venv/bin/python

PYTHON ?=
PIP_ARGS ?=
PRESET ?= quick
OUT ?=
ARGS ?=
export PYTHON PIP_ARGS

.PHONY: help
help:  ## this list
	@echo "usage: make TARGET [NAME=VALUE ...]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PRESET   what bench runs: debug, quick (default), laptop, paper"
	@echo "  OUT      bench's results folder, e.g. OUT=runs/first"
	@echo "  ARGS     further words for bench's or test's own command line, e.g. ARGS='--jobs 2' or ARGS='-k camera'"
	@echo "  PYTHON   the interpreter to build .venv with, if not python3"
	@echo "  PIP_ARGS further words for pip, e.g. where to find packages"

.PHONY: bench
bench:  ## the main job: trains and compares agents, writes a report
	@tools/setup.sh bench
	$(VENV_PYTHON) benchmarks/run_all.py --preset $(PRESET) $(if $(OUT),--out "$(OUT)") $(ARGS)

.PHONY: test
test:  ## all tests
	@tools/setup.sh test
	tools/test.sh $(ARGS)

.PHONY: lint
lint:  ## style, format and types
	@tools/setup.sh dev
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

.PHONY: format
format:  ## rewrites the sources in the project's format
	@tools/setup.sh dev
	$(VENV_PYTHON) -m ruff check --fix --select I .
	$(VENV_PYTHON) -m ruff format .

.PHONY: setup
setup:  ## only the set-up, with everything a developer needs
	@tools/setup.sh dev

.PHONY: clean
clean:  ## removes .venv and caches; never results
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
