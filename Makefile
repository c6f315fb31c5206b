# Everything starts from `make setup`; it is cheap to repeat, so every target asks for it.
.PHONY: setup quickstart test check format lock clean

setup:
	@scripts/setup

quickstart: setup
	.venv/bin/rft train recipes/quickstart.yaml

# Two workers, an engine of their own in each (about 3 GB). A file stays on one worker, so that what it makes
# once is made once; in the order of the rooms, so that no long file is left for the end.
test: setup
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	scripts/types
	.venv/bin/python -m pytest -q tests/test_layers.py

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: setup
	.venv/bin/python scripts/lock

clean:
	rm -rf .venv .side-env build dist *.egg-info
