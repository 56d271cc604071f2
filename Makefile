# make demo     install, then train and test the quick preset on generated images
# make test     install, then run lint, build the documentation and run all tests
# make install  install the CPU packages into .venv        make help  print this text
# make docs     build the documentation as a site in site/
# make smoke    install, then train, test and export a tiny network: a minute
# make matrix   demo and test with every Python from 3.9 to 3.14 found here (python3 tests/matrix.py -h)

VENV := .venv
BIN := $(VENV)/bin
# set EXTRA=cu112 for NVIDIA GPUs
EXTRA := cpu
MXNET := $(if $(filter cpu,$(EXTRA)),mxnet,mxnet-$(EXTRA))==1.9.1
CANDIDATES := python3.11 python3.12 python3.10 python3.9 python3.13 python3.14 python3 python

# The first working Python from 3.9 to 3.14 that can create virtual environments. PYTHON=... overrides.
FIND := for p in $(CANDIDATES); do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 14))' \
	2>/dev/null && { command -v $$p; break; }; done
PYTHON ?= $(shell $(FIND))

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# versions that passed the tests with this Python; `make install CONSTRAINTS=` takes the newest
CONSTRAINTS = $(wildcard $(shell $(BIN)/python -c \
	'import sys; print("constraints/py%d%d.txt" % sys.version_info[:2])' 2>/dev/null))
TESTED = $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: help install demo docs smoke test lint matrix clean

help:
	@grep '^# make' Makefile | cut -c3-

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "No Python from 3.9 to 3.14 (with venv and pip) found among: $(CANDIDATES)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-$(EXTRA): $(BIN)/python pyproject.toml
	$(PIP) -e '.[$(EXTRA)]' $(TESTED)
	$(PIP) --no-deps $(MXNET)  # from Python 3.13 on the line above does not install it: see pyproject.toml
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-$(EXTRA)
	$(PIP) -e '.[$(EXTRA),dev,docs]' $(TESTED)
	@touch $@

install: $(VENV)/.installed-$(EXTRA)

demo: install
	rm -rf runs/demo
	$(BIN)/python tools/train.py --out runs/demo
	$(BIN)/python tools/test.py runs/demo

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# the site must not load anything from other servers
docs: $(VENV)/.installed-dev
	$(BIN)/mkdocs build --quiet
	! grep -rnE '(src|<link[^>]* href)="(https?:)?//' site --include='*.html'

# the least that shows that an environment works
smoke: $(VENV)/.installed-dev
	rm -rf runs/smoke
	$(BIN)/python tools/train.py --out runs/smoke --imageset 2007_test --epochs 1 \
		--set width=0.1 short_side=64 long_side=96 batch_size=20
	$(BIN)/python tools/test.py runs/smoke --pictures 0
	$(BIN)/python tools/export.py runs/smoke --to runs/smoke/smoke.onnx \
		--check data/synthetic/VOC2007/JPEGImages/*01.jpg
	$(BIN)/python -m pytest tests/test_machine.py tests/test_images.py tests/test_boxes.py

# as many tests at once as there are cores; then, even if one failed, those that need the machine alone
test: lint docs
	@$(BIN)/python -m pytest -m "not alone" -n auto --maxprocesses=4 --dist=worksteal --durations=15; \
	together=$$?; $(BIN)/python -m pytest -m alone --durations=5; alone=$$?; \
	test $$together = 0 || echo "Tests failed in the first of the two runs: see further up."; \
	exit $$((together || alone))

matrix:
	$(PYTHON) tests/matrix.py --pythons $(MATRIX_PYTHONS) --targets $(MATRIX_TARGETS)

clean:
	rm -rf $(VENV) build dist site *.egg-info
