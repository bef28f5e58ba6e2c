# Everything runs in .venv, which the first target that needs it makes; a second run installs nothing.
# The last word is true: make throws away what a shell has found that ends with 127, as where there is no "python".
PYTHON ?= $(firstword $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && command -v $$p; done; true))
BIN := .venv/bin
INSTALLED := .venv/installed
BENCH := .bench-env
PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast check bench-env clean java python

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

install: java $(INSTALLED)  ## make .venv with the package and all that it needs

demo: java $(INSTALLED)  ## embed what the installed packages hold and show the result
	@$(BIN)/embedall demo $(if $(KINDS),--kinds $(KINDS))

test: java $(INSTALLED)  ## run all tests, in two processes with a Spark session each; PROCESSES=1 for one
	$(BIN)/pytest -n $(PROCESSES) --durations=25

test-fast: java $(INSTALLED)  ## run the tests that need no Spark
	$(BIN)/pytest -n $(PROCESSES) -m "not slow"

check: java $(INSTALLED)  ## lint, formatting, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_architecture.py

bench-env: python  ## make .bench-env with peers whose pins clash with ours
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet "numpy<2" "numba<0.62" pecanpy==2.0.9

clean:  ## remove .venv, the demo's output and caches
	rm -rf .venv $(BENCH) demo-output .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

$(INSTALLED): pyproject.toml constraints.txt | java python
	@echo "installing into .venv (a few minutes at the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,demo,dev]'
	@touch $@

python:
	@test -n "$(PYTHON)" || { echo "found no Python 3.11 or 3.12 (python3 is $$(python3 --version 2>&1)); install one:"; \
	echo "  Debian/Ubuntu: sudo apt-get install python3.11 python3.11-venv;  macOS: brew install python@3.11"; exit 1; }

# Spark runs on Java 17 and 21; anything else fails late and obscurely.
java:
	@java=$${JAVA_HOME:+$$JAVA_HOME/bin/}java; \
	found=$$($$java -version 2>&1 | sed -n 's/.*version "\([^"]*\)".*/\1/p' | head -n 1); \
	case "$$found" in 17|17.*|21|21.*) exit 0;; esac; \
	echo "found $${found:+Java }$${found:-no Java} (in $${JAVA_HOME:-PATH}), need Java 17 or 21; install one:"; \
	echo "  Debian/Ubuntu: sudo apt-get install openjdk-17-jre-headless"; \
	echo "  Fedora: sudo dnf install java-21-openjdk-headless;  macOS: brew install openjdk@17"; \
	echo "  where it is installed already, set JAVA_HOME to its folder"; exit 1
