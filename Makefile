# make demo     install, train and test the quick preset on self-made images
# make test     install and run lint and all tests
# make install  install the CPU packages into .venv        make help  this text

VENV := .venv
BIN := $(VENV)/bin
# set EXTRA=cu112 for NVIDIA GPUs
EXTRA := cpu
CANDIDATES := python3.11 python3.12 python3.10 python3.9 python3 python

# The first Python from 3.9 to 3.12 that works and can make virtual environments; PYTHON=... wins.
FIND := for p in $(CANDIDATES); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && { command -v $$p; break; }; done
PYTHON ?= $(shell $(FIND))

.PHONY: help install demo test lint clean

help:
	@grep '^# make' Makefile | cut -c3-

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "No Python from 3.9 to 3.12 (with venv and pip) found among: $(CANDIDATES)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-$(EXTRA): $(BIN)/python setup.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA)]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-$(EXTRA)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRA),dev]'
	@touch $@

install: $(VENV)/.installed-$(EXTRA)

demo: install
	rm -rf runs/demo
	$(BIN)/python tools/train.py --out runs/demo
	$(BIN)/python tools/test.py runs/demo

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -m "slow or not slow" --durations=10

clean:
	rm -rf $(VENV) build dist *.egg-info
