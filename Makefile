.PHONY: test fast lint

test:  ## all tests, on two cores
	python -m pytest -n 2

fast:  ## the quick tests
	python -m pytest -n 2 -m "not slow"

lint:  ## style and types
	ruff check .
	ruff format --check .
	mypy
