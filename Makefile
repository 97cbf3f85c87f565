# Every target makes its own environment in .venv first: Python, make and g++ are all that a machine needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: run test lint types docs fix bench check clean

run: $(INSTALLED)
	$(BIN)/losskit train --data digits --compare-torch --overwrite --out runs/digits
	$(BIN)/python -m benchmarks cross_entropy_vocab --quick

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

# -W and -n: a link that leads nowhere is an error.
docs: $(INSTALLED)
	$(BIN)/sphinx-build -W -n --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

fix: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

check: lint types docs test

clean:
	rm -rf .venv build runs

# The extension is built once, and again when its sources change; Python sources are used where they lie.
$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)
