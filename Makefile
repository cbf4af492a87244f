# Every target first makes sure that .venv stands (docs/install.md). PYTHON=/path/to/python on the
# command line takes an existing environment instead and installs nothing.
PYTHON := .venv/bin/python

# The first of some Pythons that runs (a pyenv shim may exist and only print a message), from 3.11 on.
first = $(shell for p in $(1); do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(2)))' 2>/dev/null \
	&& echo $$p && break; done)

# What an environment is built on: the user's choice, or what it has, or one that tests ran on.
FOLDER := .venv
TRIED := python3 python3.13 python3.12 python3.11 /usr/bin/python3
BASE = $(or $(call first,$(or $(BASE_PYTHON),$(FOLDER)/bin/python),99),\
	$(if $(BASE_PYTHON),,$(call first,$(TRIED),13)),\
	$(error no Python 3.11 to 3.13 runs as $(or $(BASE_PYTHON),$(TRIED)); \
	$(or $(NEWER),apt-get install python3 python3-venv), or name one: \
	make BASE_PYTHON=/path/to/python3.13))
# Said where one is here: apt-get would bring its release again.
NEWER = $(if $(BASE_PYTHON),,$(patsubst %,make BASE_PYTHON=% takes the newer one,\
	$(call first,$(TRIED),14)))
make_environment = $(BASE) tools/setup_env.py

ifeq ($(origin PYTHON),command line)
environment = $(or $(call first,$(PYTHON),99),$(error PYTHON=$(PYTHON) is no Python that runs, \
	or older than 3.11)) tools/setup_env.py --check $@
else
environment = $(make_environment)
endif

# Processes that run tests. Each takes up to 6 GB in the long ones; 0 is pytest by itself.
JOBS := 2
pytest = -m pytest tests --numprocesses $(JOBS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo compare test test-all test-openmmlab test-gpu lint format docs

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-16s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Make the environment: about 2 min
	@$(environment)

demo: ## Run the demonstration
	@$(environment)
	@$(PYTHON) tools/demo.py

compare: ## Compare all attentions on drawn shapes: hours, and goes on where it was stopped
	@$(environment)
	@$(PYTHON) tools/compare_attentions.py

test: ## Run the tests, without the long ones
	@$(environment)
	@$(PYTHON) $(pytest)

test-all: ## Run the tests, the long ones too
	@$(environment)
	@$(PYTHON) $(pytest) -m 'long or not long'

test-openmmlab: FOLDER := .venv-openmmlab
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
