# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint bench readme clean

demo: $(VENV)/.base
	$(BIN)/zoo demo --out demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -q -n 2
	KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n 2 tests/test_contract.py tests/test_ops.py tests/test_igr.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/bench_igr.py

readme: $(VENV)/.base
	$(BIN)/python tests/test_readme.py

$(VENV)/.base: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable ".[test,jax]"
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
