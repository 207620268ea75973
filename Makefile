# Two commands on a fresh machine: `make quickstart` and `make test`.
PYTHON_IN_VENV := .venv/bin/python
UV := uv==0.13.8

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint fuzz lock

help:
	@echo "make quickstart  set up, then the main job on generated data: convert, train, evaluate, report"
	@echo "make test        set up, then lint and the whole test suite"
	@echo "make lint        set up, then ruff and mypy"
	@echo "make fuzz        set up, then fuzz the JPEG decoder for SECONDS (600), with libFuzzer where there is clang"
	@echo "make setup       system headers, .venv, the locked packages (PYTHON=... chooses the interpreter)"
	@echo "make lock        resolve pyproject.toml's ranges again into requirements.lock"

setup:
	@PYTHON='$(PYTHON)' launch/setup.sh

quickstart: setup
	@launch/quickstart.sh

lint: setup
	$(PYTHON_IN_VENV) -m ruff check
	$(PYTHON_IN_VENV) -m ruff format --check
	$(PYTHON_IN_VENV) -m mypy

# Lint first: what pytest says is the last thing to read.
# OpenMP threads that wait must not spin, as in `python -m trainer`: three times the speed on a busy machine.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: lint
	$(PYTHON_IN_VENV) -m pytest

fuzz: SECONDS ?= 600
fuzz: setup
	$(PYTHON_IN_VENV) -m tests.fuzz --seconds $(SECONDS)

# One lock for every supported Python and platform, from the default index, without an address in it. Of every extra but
# bench: gigabytes of other loaders.
lock: setup
	$(PYTHON_IN_VENV) -m pip install --quiet $(UV)
	$(PYTHON_IN_VENV) -m uv pip compile --quiet --system-certs --upgrade --universal --python-version 3.10 --extra ffcv --extra simd \
		--extra tensorboard --extra publish --extra dev --group build \
		--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml
