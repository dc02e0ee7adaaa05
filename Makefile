# Two commands set everything up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

# A short second pass: the contract and the shared operations on the other backend.
ON_JAX := $(addprefix tests/,test_contract.py pretrained/test_presets.py ops/test_ops.py \
	ops/test_sampling.py layers/test_spatial_layers.py)

.PHONY: demo test lint bench readme docs clean

demo: $(VENV)/.base
	$(BIN)/zoo demo --out demo

test: $(VENV)/.test lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal
	KERAS_BACKEND=jax $(BIN)/python -m pytest -q -n 2 --dist worksteal $(ON_JAX)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(VENV)/.bench
	$(BIN)/python tests/benchmarks/bench_igr.py
	$(BIN)/python tests/benchmarks/bench_sampling.py
	$(BIN)/python tests/benchmarks/bench_losses.py
	$(BIN)/python tests/benchmarks/bench_dirvnet.py
	$(BIN)/python tests/benchmarks/bench_splatting.py
	$(BIN)/python tests/benchmarks/bench_experts.py
	@echo "Large scans:     $(BIN)/python tests/benchmarks/bench_surface_scale.py"
	@echo "With real pairs: $(BIN)/python tests/benchmarks/bench_affine.py DATA_FOLDER"
	@echo "                 $(BIN)/python tests/benchmarks/bench_deformable.py DATA_FOLDER"
	@echo "                 $(BIN)/python tests/benchmarks/bench_divroc.py DATA_FOLDER"
	@echo "                 $(BIN)/python tests/benchmarks/bench_cloud_networks.py DATA_FOLDER"
	@echo "                 $(BIN)/python tests/benchmarks/bench_lddmm.py DATA_FOLDER"
	@echo "                 $(BIN)/python tests/benchmarks/bench_surfaces.py DATA_FOLDER"

readme: $(VENV)/.base
	$(BIN)/python tests/test_readme.py

# Warnings are errors: a link that leads nowhere, a name that is not documented.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "Open build/docs/index.html"

$(VENV)/.base: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable ".[test,jax]"
	touch $@

$(VENV)/.docs: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info
