# make demo     install, train a small translator on two Ray workers, evaluate it, print the report's path
# make test     install, run the tests
# make docs     install, build the documentation into docs/_build/html
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: install demo test lint docs bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/unrolled train configs/translation/dates.yaml --workers 2 --overwrite
	$(BIN)/unrolled evaluate runs/dates --split test --decode greedy,sample,beam --workers 2

test: install
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

lint: install
	$(BIN)/ruff check platform jobs tests docs/conf.py
	$(BIN)/ruff format --check platform jobs tests docs/conf.py
	$(BIN)/mypy
	PYTHONPATH=platform $(BIN)/lint-imports
	$(BIN)/pylint platform/unrolled

docs: install
	$(BIN)/python -m sphinx --quiet --fail-on-warning -d docs/_build/doctrees docs docs/_build/html

bench: install
	$(BIN)/python jobs/benchmark.py all --json docs/benchmarks.json --markdown docs/benchmarks.md

clean:
	rm -rf $(VENV) runs build docs/_build platform/*.egg-info
