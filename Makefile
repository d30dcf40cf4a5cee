# Everything a developer does with Praxis. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.NOTPARALLEL:

# Progress is seen when it is made, also where the output is a file.
export PYTHONUNBUFFERED := 1

# What a person may add: make test ARGUMENTS="-k docker -x"
ARGUMENTS ?=

IN_PARALLEL := --numprocesses auto --dist worksteal

ENVIRONMENT := .venv/.complete
BIN := .venv/bin

.PHONY: help demo test check bench soak docs format lock clean system-packages-%

help: ## List the tasks
	@echo "Praxis: make TASK"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-8s %s\n", $$1, $$2 }'

demo: system-packages-demo $(ENVIRONMENT) ## Set up what is missing, then run a tool on every engine, and a scientific job
	@echo "demo: running examples/demo.py"
	@$(BIN)/python scripts/with_docker.py --optional $(BIN)/python examples/demo.py $(ARGUMENTS)
	@echo "demo: running examples/demo_science.py"
	@$(BIN)/python examples/demo_science.py

test: system-packages-test $(ENVIRONMENT) ## Set up what is missing, then run all tests (make test ARGUMENTS="-k docker")
	@echo "test: running pytest on tests/"
ifeq ($(ARGUMENTS),)
	@$(BIN)/python -m pytest $(IN_PARALLEL) --ignore tests/security
	@echo "test: running pytest on tests/security, which counts what is left of each attack, with no other tests beside it"
	@$(BIN)/python -m pytest $(IN_PARALLEL) tests/security
else
	@$(BIN)/python -m pytest $(IN_PARALLEL) $(ARGUMENTS)
endif

check: $(ENVIRONMENT) ## Check format, lint, types and that the generated reference is up to date
	@failed=(); \
	step() { echo "check: $$1"; "$${@:2}" || failed+=("$$1"); }; \
	step format $(BIN)/ruff format --check --output-format concise .; \
	step lint $(BIN)/ruff check .; \
	step types $(BIN)/mypy; \
	step reference $(BIN)/python scripts/generate_reference.py --check; \
	if (($${#failed[@]})); then echo "check: FAILED: $${failed[*]}"; exit 1; fi; \
	echo "check: all is well"

bench: system-packages-bench $(ENVIRONMENT) ## Measure engines, jobs and the control plane, beside their peers
	@scripts/bench-peers
	@echo "bench: running benchmarks"
	@$(BIN)/python scripts/with_docker.py $(BIN)/python -m benchmarks $(ARGUMENTS)

soak: system-packages-test $(ENVIRONMENT) ## Simulate 10,000 seeds, then run 10,000 hostile and honest jobs (SEEDS=, JOBS=)
	@echo "soak: running tests/simulation"
	@PYTHONPATH=scripts:. $(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000)
	@echo "soak: running tests/soak"
	@PYTHONPATH=scripts:. $(BIN)/python -m tests.soak --jobs $(or $(JOBS),10000) $(ARGUMENTS)

docs: $(ENVIRONMENT) ## Write docs/reference anew from the code
	@echo "docs: generating docs/reference"
	@$(BIN)/python scripts/generate_reference.py

format: $(ENVIRONMENT) ## Format the code and mend what can be mended by rule
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## Write requirements.lock anew from pyproject.toml (ARGUMENTS=--upgrade: newest versions)
	@scripts/lock $(ARGUMENTS)

clean: ## Remove all that was made here: .venv, .cache, build leftovers
	@echo "clean: removing .venv, .cache and build leftovers"
	@rm -rf .venv .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

system-packages-%:
	@scripts/system-packages $*

$(ENVIRONMENT): requirements.lock pyproject.toml
	@scripts/environment
