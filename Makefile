VENV ?= .venv
PYTHON ?= python3
# Test processes; one test file stays in one of them.
WORKERS ?= 2

bin = $(VENV)/bin
installed = $(VENV)/.installed
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(installed) ## environment in $(VENV), made anew when pyproject.toml or constraints.txt changed

$(installed): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(bin)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(installed) ## a small sweep on the embedded dataset, and its report
	$(bin)/xmbench run --methods mrl,ce,cca,pls --dataset openmoji --profile reduced --rates 0,0.4,0.8 --seeds 1 --store results/demo
	$(bin)/xmbench report --store results/demo --out reports/demo
	@echo "The report is in $(CURDIR)/reports/demo"

test: check ## lint, types, tests, and the regression check against results/reference/ci.parquet
	$(bin)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"
	$(bin)/xmbench check --against results/reference/ci.parquet --jobs $(WORKERS)

test-slow: $(installed) ## the tests that take minutes: every method and every table
	$(bin)/python -m pytest -n $(WORKERS) -m slow

check: $(installed) ## lint, format and types
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

format: $(installed) ## format the code and mend what ruff can mend
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

docs: $(installed) ## the site, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict

bench: $(installed) ## speed of metrics, training and scoring, beside plain loops
	$(bin)/python scripts/bench.py
	$(bin)/python scripts/bench_recall.py
	$(bin)/python scripts/bench_matching.py
	$(bin)/python scripts/bench_sweep.py
	$(bin)/python scripts/bench_store.py
	$(bin)/python scripts/bench_scale.py
	$(bin)/python scripts/bench_cost.py results/reference/reduced results/reference/flickr8k

soak: $(installed) ## faults and hostile files without end: kills, full disks, damaged files, 100,000 inputs to the readers
	$(bin)/python scripts/soak.py --kills 100
	$(bin)/python scripts/soak.py --kills 20 --backend dask
	XMBENCH_FUZZ=100000 $(bin)/python -m pytest tests/test_fuzz.py

release: $(installed) ## wheel and sdist, built, looked into and tried on the oldest and newest Python and dependencies
	$(bin)/python scripts/release.py --python python3.11 --python python3.13 --resolution lowest-direct --resolution highest

clean: ## remove environments, caches, and the demo's output
	rm -rf .venv .venv-ci build dist .mypy_cache .pytest_cache .ruff_cache results/demo reports/demo

.PHONY: help install demo test test-slow check format docs bench release soak clean
