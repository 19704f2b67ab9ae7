# Every target sets up .venv by itself; override the interpreter with `make test PYTHON=python3.12`.
PYTHON ?= python3
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS

BIN := .venv/bin
READY := .venv/.ready
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: demo test test-slow lint docs clean

demo: $(READY)
	$(BIN)/python examples/styblinski_tang_30d.py
	$(BIN)/python examples/rosenbrock.py

# Small tensors do not fill two cores, processes of one thread do. scikit-learn runs its array API
# checks only when scipy has array API support switched on.
PYTEST := OMP_NUM_THREADS=1 SCIPY_ARRAY_API=1 $(BIN)/python -m pytest -n auto --dist worksteal

# What is to pass while one works; test-slow is the rest.
test: $(READY)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY)
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[plot,docs]'
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# torch first and pinned, because another version may pull in gigabytes of GPU libraries.
$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[plot,test,lint]'
	touch $@

clean:
	rm -rf .venv build dist output *.egg-info .pytest_cache .ruff_cache .mypy_cache
	rm -rf docs/_build docs/gallery docs/generated
