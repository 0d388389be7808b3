# Everything a fresh clone needs: each target sets up .venv when it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The rivals bring many packages, so they live apart.
BENCH := .venv-bench
RIVALS := examples/benchmarks/rivals/requirements.txt
# Two workers suit two cores; more share the machine with the processes that distributed tests start.
JOBS ?= 2

.PHONY: demo test test-all test-deepspeed parity parity-mesh bench bench-growth bench-gpu check format clean setup
.DEFAULT_GOAL := demo

# Tests run in JOBS processes beside each other, so each gets one thread.
TEST_ENV := OMP_NUM_THREADS=1

demo: $(STAMP)
	$(BIN)/crosstrain demo

test: $(STAMP)
	$(TEST_ENV) $(BIN)/pytest -n $(JOBS) --dist loadfile

test-all: $(STAMP)
	$(TEST_ENV) $(BIN)/pytest -n $(JOBS) --dist loadfile -m ""

# DeepSpeed is built from source, and compiles more when it first runs.
test-deepspeed: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(TEST_ENV) $(BIN)/pytest -m "" parity_tests/meshes/test_zero.py

parity: $(STAMP)
	$(BIN)/python -m parity_tests.training.matrix

parity-mesh: $(STAMP)
	$(BIN)/python -m parity_tests.meshes.table

bench: $(BENCH)/.installed
	cd examples/benchmarks && $(CURDIR)/$(BENCH)/bin/python -m rivals

# A step as the work grows, beside plain loops; and what only a GPU can show (without one it says so).
bench-growth: $(STAMP)
	$(BIN)/python examples/benchmarks/growth.py

bench-gpu: $(STAMP)
	$(BIN)/python examples/benchmarks/gpu.py $(if $(CIFAR),--cifar $(CIFAR))

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

$(BENCH)/.installed: pyproject.toml constraints.txt $(RIVALS)
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' -r $(RIVALS)
	touch $@

clean:
	rm -rf $(VENV) $(BENCH) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache runs dist
