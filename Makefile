# Everything runs in .venv, which the first target that needs it makes; a second run installs nothing.
# make install TORCH=cpu: torch without CUDA, which is a tenth as large, where pip or uv knows an index that has it.
# The last word is true: make throws away what a shell has found that ends with 127, as where there is no "python".
PYTHON ?= $(firstword $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && command -v $$p; done; true))
# uv installs several times faster than pip; a shim that only says that uv is missing does not count.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv; true)
TORCH ?=
EXTRAS := local,demo,dev
BIN := .venv/bin
INSTALLED := .venv/installed
BENCH := .bench-env
# Where make wheel and make package write, and what the packed environment has beside the package, such as images,torch.
DIST ?= dist
PACKAGE_EXTRAS ?=
COMPILE ?= --compile-bytecode
# auto: see tests/suite.py.
PROCESSES ?= auto
# Tests that make check runs as well; CI, which runs all tests beside it, none.
RULES ?= tests/test_architecture.py

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast check wheel package bench-env clean java python

help:  ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' Makefile
	@echo "  make install TORCH=cpu   the same with torch for CPUs only: 2 GB in place of 7 GB"
	@echo "  make package PACKAGE_EXTRAS=images,torch   with what GPUs, pictures and several workers need"
	@echo "  make demo KINDS=A,B      only some kinds: images, latent, nodes, sequences, words"

install: java $(INSTALLED)  ## make .venv with the package and all that it needs

demo: java $(INSTALLED)  ## embed what the installed packages hold and show the result
	@$(BIN)/embedall demo $(if $(KINDS),--kinds $(KINDS))

test: java $(INSTALLED)  ## run all tests, in several processes with a Spark session each; PROCESSES=1 for one
	$(BIN)/pytest -n $(PROCESSES) --durations=25

test-fast: java $(INSTALLED)  ## run the tests that need no Spark
	$(BIN)/pytest -n $(PROCESSES) -m "not slow"

check: java $(INSTALLED)  ## lint, formatting, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(if $(RULES),$(BIN)/pytest $(RULES))

wheel: python  ## build the wheel into dist
	@rm -rf build $(DIST)/embedall_spark-*.whl
	@$(if $(UV),uv build --quiet --wheel --out-dir $(DIST),$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir $(DIST) .)
	@rm -rf build
	@ls $(DIST)/embedall_spark-*.whl

package: BIN := $(DIST)/environment/bin
package: wheel  ## pack the wheel with all that it needs into dist/environment.tar.gz, for spark-submit --archives
	@rm -rf $(DIST)/environment $(DIST)/environment.tar.gz
	@$(if $(UV),uv venv --quiet --python $(PYTHON),$(PYTHON) -m venv) $(DIST)/environment
	@$(call INSTALL,"$$(ls $(DIST)/embedall_spark-*.whl)[package$(if $(PACKAGE_EXTRAS),$(comma)$(PACKAGE_EXTRAS))]")
	@$(BIN)/venv-pack --quiet --prefix $(DIST)/environment --output $(DIST)/environment.tar.gz --compress-level 1
	@ls -sh $(DIST)/environment.tar.gz

bench-env: python  ## make .bench-env with peers whose pins clash with ours
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet "numpy<2" "numba<0.62" pecanpy==2.0.9

clean:  ## remove .venv, the demo's output and caches
	rm -rf .venv $(BENCH) demo-output .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info

# An index with CPU wheels calls them 2.14.1+cpu; PyPI has none for Linux, where its wheels bring CUDA along.
$(INSTALLED): pyproject.toml constraints.txt | java python
	@test -x $(BIN)/python || { echo "== making .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@if [ -z "$(TORCH)" ] && [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
		echo "== found no NVIDIA driver: torch's CUDA libraries (5 GB) will be installed, but not used. To leave them out,"; \
		echo "   interrupt with Ctrl-C and run: make install TORCH=cpu"; fi
	@echo "== installing about 180 packages ($(if $(TORCH),2,7) GB, some minutes) with $(or $(UV),pip)"
	@$(if $(UV),,$(BIN)/pip install --quiet --disable-pip-version-check 'pip>=25.1') # older ones show no progress at the end
	@$(if $(filter cpu,$(TORCH)),$(CPU_TORCH))
	@$(call INSTALL,-e '.[$(EXTRAS)]')
	@touch $@
	@echo "== installed; make demo shows what it can do"

comma := ,

# uv does not read pip's configuration: where it finds no package, pip may.
define INSTALL
$(if $(UV),uv pip install --python $(BIN)/python $(COMPILE) -c constraints.txt $(1) || \
	{ echo "== uv could not install them; trying pip"; false; } || )$(BIN)/pip install --disable-pip-version-check -c constraints.txt $(1)
endef

CPU_TORCH = $(call INSTALL,$(shell sed -n 's/^\(torch\|torchvision\)==\([^+ ]*\).*/\1==\2+cpu/p' constraints.txt)) || { \
	echo "found no CPU wheels of torch: PyPI has none for Linux. Name an index that has them, such as PyTorch's own, in"; \
	echo "  PIP_EXTRA_INDEX_URL (for uv: UV_INDEX), or install with CUDA: make install"; exit 1; }

python:
	@test -n "$(PYTHON)" || { echo "found no Python 3.11 to 3.13 (python3 is $$(python3 --version 2>&1)); install one:"; \
	echo "  Debian/Ubuntu: sudo apt-get install python3.11 python3.11-venv;  macOS: brew install python@3.11"; exit 1; }

# Spark runs on Java 17 and 21; anything else fails late and obscurely.
java:
	@java=$${JAVA_HOME:+$$JAVA_HOME/bin/}java; \
	version=$$($$java -version 2>&1 | sed -n 's/.*version "\([^"]*\)".*/\1/p' | head -n 1); \
	case "$$version" in 17|17.*|21|21.*) exit 0;; esac; \
	echo "found $${version:+Java }$${version:-no Java} (in $${JAVA_HOME:-PATH}), need Java 17 or 21; install one:"; \
	echo "  Debian/Ubuntu: sudo apt-get install openjdk-17-jre-headless"; \
	echo "  Fedora: sudo dnf install java-21-openjdk-headless;  macOS: brew install openjdk@17"; \
	echo "  where it is installed already, set JAVA_HOME to its folder"; exit 1
