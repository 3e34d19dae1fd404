# The targets of every system. A system's Makefile is `CLI := its-command`, an include of this file,
# and the few targets that only it has.
#
# make train CONFIG=smoke              a named run of configs/ (or a path)
# make e2e DATASET=movielens-1m        another data set
# make train SEED=1 OUT=folder         another seed, another place for the artifacts
# make train ARGS='--set ranker.trees=50'   anything else the command understands

.DEFAULT_GOAL := help

ROOT := $(dir $(lastword $(MAKEFILE_LIST)))..
include $(ROOT)/scripts/environment.mk
RUN := .venv/bin/$(CLI)
PACKAGE := $(subst -,_,$(CLI))
CONFIG_FILE := $(if $(CONFIG),$(if $(findstring /,$(CONFIG)),$(CONFIG),configs/$(CONFIG).yaml))
FLAGS = $(if $(CONFIG),--config $(CONFIG_FILE)) $(if $(DATASET),--dataset $(DATASET)) \
	$(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT)) $(ARGS)

.PHONY: help setup data train evaluate e2e serve bench notebooks test lint docs docs-check quiz cards mock capacity labs clean

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:[^#]*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## build .venv if what it is made from has changed
	@bash "$(ROOT)/scripts/setup.sh" .

data: setup ## fetch and check the data set, print what is in it
	$(RUN) data $(FLAGS)

train: setup ## train every stage and publish a bundle
	$(RUN) train $(FLAGS)

evaluate: setup ## train, then measure against the baselines, without serving
	$(RUN) evaluate $(FLAGS)

e2e: setup ## all of it: data, train, evaluate, serve a load, report
	$(RUN) e2e $(FLAGS)

serve: setup ## start the service from the last bundle
	$(RUN) serve $(FLAGS)

bench: setup ## speed and memory, under load from a second process
	$(RUN) bench $(FLAGS)

# Without CONFIG on small models that are trained once; with one on the last run of it.
notebooks: setup ## run notebooks/ into artifacts/notebooks (CONFIG=default: on a full run)
	.venv/bin/python -m $(PACKAGE).notebooks $(FLAGS)

# COVERAGE_FILE is set by the root's `make test`, which adds up the coverage of all runs.
test: setup ## the system's tests (ARGS='-k name' for some of them)
	.venv/bin/python -m pytest tests $(if $(COVERAGE_FILE),--cov=src --cov="$(ROOT)/ml_platform" \
		--cov="$(ROOT)/ml_algorithms" --cov="$(ROOT)/feature_engineering" --cov-report= \
		--cov-config="$(ROOT)/pyproject.toml" --cov-fail-under=0) $(ARGS)

# The linters stand in the root's environment, the types of the libraries in the system's.
lint: setup ## ruff and mypy over this system
	@bash "$(ROOT)/scripts/setup.sh" "$(ROOT)"
	"$(ROOT)/.venv/bin/ruff" check .
	"$(ROOT)/.venv/bin/ruff" format --check .
	MYPYPATH=src "$(ROOT)/.venv/bin/mypy" --config-file "$(ROOT)/pyproject.toml" \
		--python-executable .venv/bin/python --cache-dir .mypy_cache -p $(PACKAGE)

# The renderer and Mermaid stand in the root's environment.
PAGES := README.md $(wildcard docs labs)
docs: ## write the numbers of results/ into the Markdown
	@bash "$(ROOT)/scripts/setup.sh" "$(ROOT)"
	"$(ROOT)/.venv/bin/python" -m ml_platform.docs.render $(PAGES)

docs-check: ## fail if a number in the Markdown differs from results/
	@bash "$(ROOT)/scripts/setup.sh" "$(ROOT)"
	"$(ROOT)/.venv/bin/python" -m ml_platform.docs.render --check $(PAGES)

quiz: ## multiple choice from interview.yaml, with feedback (ARGS='--doc 07_evaluation -n 5')
cards: ## flash cards: a question, a pause, the answers by level
mock: ## the script of a mock interview, with timed probes
quiz cards mock:
	@bash "$(ROOT)/scripts/setup.sh" "$(ROOT)"
	@"$(ROOT)/.venv/bin/python" -m ml_platform.docs.practice interview.yaml $@ $(ARGS)

capacity: ## machines and dollars at full scale, from the assumptions in capacity.yaml
	@bash "$(ROOT)/scripts/setup.sh" "$(ROOT)"
	"$(ROOT)/.venv/bin/python" -m ml_platform.docs.capacity capacity.yaml --out results/capacity.json

lab-%: setup ## break one thing, see the symptom, fix it (make labs lists them)
	$(RUN) lab $* $(FLAGS)

labs: setup ## the names of the break-it labs
	$(RUN) lab list

clean: ## remove the environment, the caches and the artifacts (never the data cache, never results/)
	rm -rf .venv artifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
