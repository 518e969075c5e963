# `make demo` and `make test` each set up everything they need.

PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
COMMAND := $(VENV)/.command
READY := $(VENV)/.ready
SERVERS := $(VENV)/.servers
PYTHONS := 3.11 3.12 3.13

.PHONY: help demo test test-pythons test-lowest lock release check format pages bench check-deep mutants torture fuzz soak clean

help:
	@echo "make demo    three real processes elect, crash, recover and hand over"
	@echo "make test    every check and every test"
	@echo "make test-pythons  the same with each Python that is supported, as far as this machine has it"
	@echo "make test-lowest   the same with the lowest version of each package that is allowed"
	@echo "make lock    look for new versions, and write them with their hashes to locks/"
	@echo "make release wheel, source, SBOM and checksums, in dist/"
	@echo "make check   format, lint, types and the direction of imports"
	@echo "make bench   speed of the simulator and of fail-over"
	@echo "make check-deep  the model checker without its limits: hours, and all the memory there is"
	@echo "make mutants weaken each rule of the core, and see which test or storm notices"
	@echo "make torture real nodes under real faults, ten minutes for each algorithm (as root)"
	@echo "make fuzz    bytes and stories that nobody thought of, FUZZ_SECONDS (600) for each target"
	@echo "make soak    10,000 elections and 100,000 connections in one process"
	@echo "make format  put the code in shape"
	@echo "make pages   write what README and docs show of simulated runs anew"
	@echo "make clean   remove what make has made"

# The command `elect`, and nothing that only developers use. What is installed is what the locks say, byte for byte.
$(COMMAND): pyproject.toml locks/build.txt locks/cli.txt
	@test -n "$(PYTHON)" || { echo "electorate needs Python 3.11 or later; none was found on the PATH."; exit 1; }
	@echo "Once, before the first time: a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "Cannot make a virtual environment: install python3-venv."; exit 1; }
	@echo "... and in it electorate with what its command needs, from PyPI:"
	@$(PIP) install --require-hashes -r locks/build.txt -r locks/cli.txt | sed -n 's/^Collecting \([A-Za-z0-9._-]*\).*/  \1/p; s/^Successfully installed.*/  done/p'
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@test -x $(BIN)/elect && touch $(COMMAND)

$(READY): $(COMMAND) locks/dev.txt
	@echo "Once, before the first time: what developers and tests use, in $(VENV) (a minute) ..."
	@$(PIP) install --require-hashes -r locks/dev.txt | sed -n 's/^Collecting \([A-Za-z0-9._-]*\).*/  \1/p; s/^Successfully installed.*/  done/p'
	@$(BIN)/python -c "import pytest" && touch $(READY)

# Real programs that tests work with.
$(SERVERS): $(READY)
	@{ ls /usr/lib/postgresql/*/bin/initdb && test -x /usr/sbin/haproxy && test -x /usr/sbin/nginx && \
		test -x /usr/bin/promtool && test -x /usr/bin/systemd-analyze && test -x /usr/sbin/nft && test -x /usr/bin/strace; } >/dev/null 2>&1 || \
		{ sudo=$$(test $$(id -u) = 0 || echo sudo); $$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		$$sudo apt-get install -qq -y --no-install-recommends postgresql haproxy nginx-light \
		prometheus systemd nftables iproute2 strace >/dev/null; } || \
		{ echo "The tests need PostgreSQL, HAProxy, nginx, Prometheus, systemd, nftables and strace, as in Debian."; exit 1; }
	@touch $(SERVERS)

demo: $(COMMAND)
	@$(BIN)/elect up --tour

test: check $(SERVERS)
	@$(BIN)/pytest

# Each has an environment of its own. They are looked for on the PATH, and where pyenv keeps them.
test-pythons:
	@for version in $(PYTHONS); do \
		python=$$(for p in python$$version $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$version.*/bin/python; do \
			$$p -c 'import sqlite3, ssl' 2>/dev/null && echo $$p && break; done); \
		test -n "$$python" || { echo "Python $$version: not found, so not tested"; continue; }; \
		echo "Python $$version: $$python"; \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=.venv/python-$$version || exit 1; done

# Whoever installs the library beside older packages gets these; what those need in turn is the newest there is.
LOWEST := .venv/lowest
LOWEST_TESTS ?= tests

test-lowest: $(SERVERS)
	@$(BIN)/uv venv --quiet --clear --seed --python $(PYTHON) $(LOWEST)
	@echo "opentelemetry-sdk==1.25.0" > $(LOWEST)/overrides.txt
	@VIRTUAL_ENV=$(LOWEST) $(BIN)/uv pip install --quiet --resolution lowest-direct \
		--overrides $(LOWEST)/overrides.txt --editable ".[all]" --group test
	@$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning $(LOWEST_TESTS)

# The versions that pyproject.toml allows now, for each system and Python. Read the difference before it is committed.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"

lock: $(READY)
	@$(COMPILE) pyproject.toml --extra all -o locks/image.txt
	@$(COMPILE) pyproject.toml --extra cli -c locks/image.txt -o locks/cli.txt
	@$(COMPILE) pyproject.toml --extra all --group dev -c locks/image.txt -o locks/dev.txt
	@$(COMPILE) --group build -c locks/dev.txt -o locks/build.txt
	@git diff --stat locks

release: $(READY)
	@$(BIN)/python -m tests.release dist

check: $(READY)
	@$(BIN)/ruff format --check --quiet . || { echo "Run: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }

format: $(READY)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

pages: $(READY)
	@$(BIN)/python -m tests.pages

bench: $(READY)
	@$(BIN)/python bench/run.py

check-deep: $(READY)
	@DEEP=1 $(BIN)/pytest -n 0 --timeout 0 tests/test_check.py -k counted
	@$(BIN)/elect check --deep

mutants: $(READY)
	@$(BIN)/python -m tests.mutants $(ONLY)

torture: $(SERVERS)
	@for a in bully ring raft zab; do \
		$(BIN)/elect torture --algorithm $$a --nodes 5 --minutes 10 --report torture-$$a.html || exit 1; done

FUZZ_SECONDS ?= 600

fuzz: $(READY)
	@for target in frames greeting; do \
		mkdir -p .venv/corpus/$$target && $(BIN)/python -m fuzz.$$target -max_total_time=$(FUZZ_SECONDS) \
		-artifact_prefix=.venv/corpus/ .venv/corpus/$$target fuzz/corpus/$$target || exit 1; done
	@FUZZ_EXAMPLES=$$((10 * $(FUZZ_SECONDS))) $(BIN)/pytest --timeout 0 tests/test_fuzz_core.py tests/test_fuzz_config.py

soak: $(READY)
	@SOAK_ELECTIONS=10000 SOAK_ATTEMPTS=100000 $(BIN)/pytest -n 0 tests/test_soak.py

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
