.PHONY: test fast lint docs

test:  ## all tests, on two cores
	python -m pytest -n 2

fast:  ## the quick tests
	python -m pytest -n 2 -m "not slow"

lint:  ## style and types
	ruff check .
	ruff format --check .
	mypy

docs:  ## the documentation site, in site/
	mkdocs build --strict
