# The targets of every algorithm's folder in ml_algorithms/. Its Makefile includes this file.
#
# make bench                           everything that the page quotes, written to results/
# make bench CONFIG=smoke              the same in seconds, written to artifacts/
# make bench ARGS='--only recall'      one part of it (make bench ARGS=--help lists them)

.DEFAULT_GOAL := help

ROOT := $(dir $(lastword $(MAKEFILE_LIST)))..
include $(ROOT)/scripts/environment.mk
PYTHON := $(ROOT)/.venv/bin/python
NAME := $(notdir $(CURDIR))
FLAGS = $(if $(CONFIG),--config $(CONFIG)) $(if $(SEED),--seed $(SEED)) $(if $(OUT),--out $(OUT)) $(ARGS)

.PHONY: help setup bench notebook test docs docs-check quiz cards clean

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:[^#]*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## build the environment that all algorithms share (the root's) if it has changed
	@bash "$(ROOT)/scripts/setup.sh" "$(ROOT)"

bench: setup ## measure what the page quotes (CONFIG=smoke: in seconds, not for quoting)
	"$(PYTHON)" -m ml_algorithms.$(NAME).bench $(FLAGS)

notebook: setup ## run notebook.ipynb into artifacts/notebook/ (open the .html, or the .ipynb in an editor)
	"$(PYTHON)" -m ml_platform.docs.notebooks notebook.ipynb --out artifacts/notebook

test: setup ## this algorithm's tests (ARGS='-k name' for some of them)
	cd "$(ROOT)" && .venv/bin/python -m pytest tests/ml_algorithms/$(NAME) $(ARGS)

docs: setup ## write the numbers of results/ into README.md
	"$(PYTHON)" -m ml_platform.docs.render README.md

docs-check: setup ## fail if a number in README.md differs from results/
	"$(PYTHON)" -m ml_platform.docs.render --check README.md

quiz: ## multiple choice from interview.yaml, with feedback (ARGS='-n 5')
cards: ## flash cards: a question, a pause, the answers by level
quiz cards: setup
	@"$(PYTHON)" -m ml_platform.docs.practice interview.yaml $@ $(ARGS)

clean: ## remove artifacts (never results/)
	rm -rf artifacts
