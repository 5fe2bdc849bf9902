# Everything a fresh machine needs is Python 3.11 or 3.12 and a C++20 compiler; the rest goes into .venv.
# `make demo` and `make test` set up what is missing or out of date, then run.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
SEED ?= 0
RUN_DIR ?= runs/demo
PYTEST_ARGS ?=
TEST_JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 1); echo $$((n > 4 ? 4 : n)))
SANITIZERS ?= address,undefined thread

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := worldfleet cluster learner actors envs planners native
NATIVE_SOURCES := $(shell find native \( -name '*.cc' -o -name '*.h' -o -name CMakeLists.txt \) -not -path '*/build/*')
NATIVE_BUILD := build/native
CMAKE := $(BIN)/cmake -S native -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja)

INSTALLED := $(VENV)/.installed
BUILT := $(NATIVE_BUILD)/.built

.PHONY: help setup native demo test test-all lint format native-test native-sanitize wheel check-wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(INSTALLED) $(BUILT)  ## create .venv, install the pinned packages, build the kernels

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "worldfleet needs Python 3.11 or 3.12 (with venv); set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt scikit-build-core pybind11 cmake ninja
	$(BIN)/pip install --quiet --no-build-isolation -c constraints.txt -e '.[dev]'
	touch $@

# The new library replaces the old one by a rename, so that running processes keep theirs.
$(BUILT): $(INSTALLED) $(NATIVE_SOURCES)
	mkdir -p build
	$(CMAKE) -B $(NATIVE_BUILD) -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE=$(abspath $(BIN)/python) \
		-Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > $(NATIVE_BUILD).log || { cat $(NATIVE_BUILD).log >&2; exit 1; }
	$(BIN)/cmake --build $(NATIVE_BUILD)
	$(BIN)/cmake --install $(NATIVE_BUILD) --prefix $(NATIVE_BUILD)/stage > /dev/null
	for lib in $(NATIVE_BUILD)/stage/native/_native*.so; do cp $$lib native/.new.so && mv -f native/.new.so native/$$(basename $$lib); done
	touch $@

native: $(BUILT)  ## build the C++ kernels into native/

demo: setup  ## train the demo agent (SEED, RUN_DIR), evaluate it, write its report
	$(BIN)/worldfleet train --algo pets --env nav3d --scale laptop --seed $(SEED) --run-dir $(RUN_DIR) --resume-auto
	$(BIN)/worldfleet eval --run-dir $(RUN_DIR) --episodes 100 --seed 0
	$(BIN)/worldfleet report --run-dir $(RUN_DIR)

# A file of tests stays in one process: those of a file may share a cluster.
PYTEST = $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder

test: setup  ## run the tests (PYTEST_ARGS) in TEST_JOBS processes, but for those marked chaos or learning
	$(PYTEST) -m 'not chaos and not learning' $(PYTEST_ARGS)

test-all: setup  ## run all tests
	$(PYTEST) $(PYTEST_ARGS)

lint: $(INSTALLED)  ## ruff, mypy --strict, import directions, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/clang-format --dry-run -Werror $(filter %.cc %.h,$(NATIVE_SOURCES))

format: $(INSTALLED)  ## rewrite Python and C++ in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter %.cc %.h,$(NATIVE_SOURCES))

native-test: $(BUILT)  ## run the C++ tests
	$(CMAKE) -B $(NATIVE_BUILD) -DNATIVE_TESTS=ON
	$(BIN)/cmake --build $(NATIVE_BUILD)
	$(BIN)/ctest --test-dir $(NATIVE_BUILD) --output-on-failure --no-tests=error

native-sanitize: $(INSTALLED)  ## run the C++ tests under each of SANITIZERS
	for sanitizer in $(SANITIZERS); do \
		build=build/native-$${sanitizer%%,*}; \
		$(CMAKE) -B $$build -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" \
			-DNATIVE_PYTHON=OFF -DNATIVE_TESTS=ON -DNATIVE_SANITIZE=$$sanitizer; \
		$(BIN)/cmake --build $$build; \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 \
			$(BIN)/ctest --test-dir $$build --output-on-failure --no-tests=error; \
	done

wheel: $(BUILT)  ## build the wheel into dist/
	rm -rf dist
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m build --wheel --no-isolation --outdir dist -C build-dir=$(NATIVE_BUILD)

check-wheel: wheel  ## install the wheel into an empty environment and import it from elsewhere
	$(BIN)/python .ci/check_wheel.py dist/worldfleet-*.whl

clean:  ## remove what was built, but not .venv or runs
	rm -rf build dist native/_native*.so
