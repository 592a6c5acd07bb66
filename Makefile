# Eagleray's recipes; `make` alone explains them. They install into .venv first, from requirements.lock, once.
# SHELL options: a recipe stops at its first failing command.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench clean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export RAY_USAGE_STATS_ENABLED := 0
export OTEL_SDK_DISABLED := true

help:  ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(STAMP)  ## the package and its tools into .venv, from requirements.lock with hashes

demo: $(STAMP)  ## half a minute of game events, from HTTP to SQL, on this machine
	$(BIN)/eagleray demo

test: $(STAMP)  ## every test; one file: make test TESTS=tests/unit/test_cli_send.py
	$(BIN)/pytest $(TESTS)

lint: $(STAMP)  ## style, types and the direction of imports
	$(BIN)/ruff check --no-cache .  # a cached verdict survives changes in other files
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## every benchmark; figures go to benchmarks/RESULTS.md
	$(BIN)/python benchmarks/run.py

clean:  ## remove the environment, the demo's data and every cache
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): requirements.lock pyproject.toml .ci/install
	@.ci/install $(VENV)
	@touch $@
