# What people type. `make` alone lists the targets.
PYTHON ?= python3
ARGS ?=
DATA ?=

PY := .venv/bin/python
# One stamp for each install: a second `make test` installs nothing unless pyproject.toml changed. The checksum of the
# path is in its name because the install points at this folder: a moved or copied checkout must install again.
SUM := $(shell pwd | cksum | cut -d' ' -f1)
STAMP := .venv/installed-$(SUM)
TOOLS := .venv/tools-$(SUM)
NATIVE := build/native/installed
# worksteal, not loadfile: loadfile runs a test that killed its worker again and again (pytest-xdist#1371), so one hang
# would cost minutes; worksteal fails it once and runs all the others.
PYTEST := $(PY) -m pytest -n auto --dist worksteal
TYPED := $(foreach d,ps examples benchmarks experiments tests,$(if $(wildcard $(d)/*.py),$(d)))

.DEFAULT_GOAL := help
.PHONY: help test soak bench demo native lint style types format clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):[^#]*## */  make \1\t/' | expand -t 16

# Tests start hundreds of processes, several at a time on each core: each would compile the package anew where the user
# keeps Python from caching that, and libraries of numerics would start a thread per core in each.
test soak: export PYTHONDONTWRITEBYTECODE :=
test soak: export OMP_NUM_THREADS := 1

test: $(NATIVE) $(TOOLS)  ## the whole test suite; ARGS="-k ssp" for a part
	$(PYTEST) $(ARGS)

soak: $(NATIVE) $(TOOLS)  ## the whole suite, the long tests too, with many more random examples
	PS_SOAK=1 $(PYTEST) -m "" -o faulthandler_timeout=1800 $(ARGS)

bench: $(NATIVE) $(TOOLS)  ## all benchmarks in full size; ARGS="--only raw --json out.json"
	$(PY) -m benchmarks $(ARGS)

demo: $(NATIVE)  ## the demo; DATA=folder of the data sets, ARGS=its flags
	$(PY) examples/demo.py $(if $(DATA),--data "$(DATA)") $(ARGS)

native: $(NATIVE)  ## the native kernels, in place; without a compiler the NumPy twins do, only slower

lint: style types  ## style and types; -k shows both where the first fails

style: $(TOOLS)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(TOOLS)
	$(PY) -m mypy $(TYPED)

format: $(TOOLS)  ## repairs what `make lint` finds and a tool can repair
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:  ## removes the virtual environment, caches and build output
	rm -rf .venv build dist ps/kernels/_native*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "make: expected Python >= 3.11, got $$($(PYTHON) -V 2>&1); set it: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
	  else echo "make: $(PYTHON) has no venv module: sudo apt-get install python3-venv" >&2; exit 1; fi; }
	@echo "installing into .venv (under a minute) ..."
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check -e '.[demo,native]'
	@rm -f .venv/installed-* && touch $@

$(TOOLS): $(STAMP)
	@echo "installing what the tests and linters need: PyTorch, JAX and others, 2 GB (a few minutes) ..."
	@$(PY) -m pip install -qq --no-input --disable-pip-version-check -e '.[dev]'
	@rm -f .venv/tools-* && touch $@

# Where nothing can be compiled the targets go on all the same: the twins give the same bytes.
$(NATIVE): $(STAMP) CMakeLists.txt $(wildcard native/*)
	@if [ "$$(id -u)" = 0 ] && ! command -v c++ >/dev/null && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq g++ python3-dev >/dev/null || true; fi
	@echo "building the native kernels ..."
	@mkdir -p build/native
	@{ $(PY) -m cmake -S . -B build/native -DPython_EXECUTABLE="$$(pwd)/$(PY)" -DCMAKE_INSTALL_PREFIX="$$(pwd)" && \
	  $(PY) -m cmake --build build/native -j 2 && $(PY) -m cmake --install build/native; } >build/native/log 2>&1 \
	  || echo "make: the native kernels were not built (build/native/log); the NumPy twins do their work" >&2
	@touch $@
