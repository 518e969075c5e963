# `make demo` and `make test` each set up everything they need.

PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help demo test check format bench clean

help:
	@echo "make demo    three real processes elect, crash, recover and hand over"
	@echo "make test    every check and every test"
	@echo "make check   format, lint, types and the direction of imports"
	@echo "make bench   speed of the simulator and of fail-over"
	@echo "make format  put the code in shape"
	@echo "make clean   remove what make has made"

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "electorate needs Python 3.11 or later; none was found on the PATH."; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "Cannot make a virtual environment: install python3-venv."; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[all]" --group dev
	@touch $(READY)

demo: $(READY)
	@$(BIN)/elect up --tour

test: check
	@$(BIN)/pytest

check: $(READY)
	@$(BIN)/ruff format --check --quiet . || { echo "Run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > .venv/imports.txt || { cat .venv/imports.txt; exit 1; }

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY)
	@$(BIN)/python bench/run.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
