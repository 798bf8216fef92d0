PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: help quickstart test bench lint types format clean

help:
	@echo "make quickstart  learn, pre-train, fine-tune and predict on text of this machine (under 8 minutes)"
	@echo "make test        run the tests"
	@echo "make bench       measure beside other tools (under 20 minutes on two cores); tables, and JSON in bench/"
	@echo "make lint        check style and format"
	@echo "make types       check types"
	@echo "make format      format the code"
	@echo "make clean       remove the virtual environment and caches"

quickstart: $(VENV)/installed
	$(BIN)/bertsmith quickstart -o quickstart

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# DATA names a folder of the data sets that benchmarks/ speak of; what needs real text is left out without it.
DATA ?= data
BENCH := $(BIN)/python benchmarks

bench: $(VENV)/installed-bench
	@mkdir -p bench
	$(BENCH)/pretraining.py --data $(DATA) --rounds 3 --json bench/pretraining.json
	$(BENCH)/growth.py --json bench/growth.json --picture bench/growth.png
	$(BENCH)/text.py --data $(DATA)/raw --limit-mb 10 --rounds 3 --json bench/text.json
	@if [ -d $(DATA) ]; then set -x; \
	  $(BENCH)/encoding.py --data $(DATA) --texts 2000 --rounds 3 --json bench/encoding.json && \
	  $(BENCH)/finetuning.py polarity --data $(DATA) --limit 1600 --epochs 1 --json bench/finetuning.json; \
	else echo "no folder $(DATA): encoding and fine-tuning are left out (make bench DATA=...)"; fi

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist src/*.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Bertsmith needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-bench: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev,bench]'
	@touch $@ $(VENV)/installed $(VENV)/installed-dev
