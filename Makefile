# Every target first makes sure that .venv stands (docs/install.md). PYTHON=/path/to/python on the
# command line takes an existing environment instead and installs nothing.
PYTHON := .venv/bin/python

# Any Python can start the set-up script, which finds the one to build on (BASE_PYTHON overrides).
# A candidate must run: a pyenv shim may exist and only print a message.
LAUNCHER = $(shell for p in python3 python3.13 python3.12 python3.11 /usr/bin/python3; do \
	$$p -c '' 2>/dev/null && echo $$p && break; done)
SCRIPT = $(or $(LAUNCHER),$(error no Python found; apt-get install python3 python3-venv)) \
	tools/setup_env.py

make_environment = $(SCRIPT) $(if $(BASE_PYTHON),--base-python '$(BASE_PYTHON)')
ifeq ($(origin PYTHON),command line)
environment = $(SCRIPT) --check '$(PYTHON)' --target $@
else
environment = $(make_environment)
endif

# Processes that run tests. Each takes up to 6 GB in the long ones; 0 is pytest by itself.
JOBS := 2
pytest = -m pytest tests --numprocesses $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-openmmlab test-gpu lint format docs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make the environment: about 2 min
	@$(environment)

demo: ## Run the demonstration
	@$(environment)
	@$(PYTHON) tools/demo.py

test: ## Run the tests, without the long ones
	@$(environment)
	@$(PYTHON) $(pytest)

test-all: ## Run the tests, the long ones too
	@$(environment)
	@$(PYTHON) $(pytest) -m 'long or not long'

test-openmmlab: ## Run the tests with upstream's mm libraries, in an environment of their own
	@$(make_environment) --family openmmlab
	@.venv-openmmlab/bin/python $(pytest)

test-gpu: ## Check and measure on a GPU: at most 9 min; ARGS='--device cpu' rehearses
	@$(environment)
	@$(PYTHON) tests/test_gpu $(ARGS)

lint: ## Check style and format
	@$(environment)
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check

format: ## Put in order what lint would complain of, where that goes by itself
	@$(environment)
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format

docs: ## Build the site into site/
	@$(environment)
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict
