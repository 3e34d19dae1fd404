# make e2e runs the flagship; SYSTEM=name picks another. Targets that a system has are handed to it,
# with CONFIG, DATASET, SEED, OUT and ARGS (see scripts/system.mk).

.DEFAULT_GOAL := help
include scripts/environment.mk

SYSTEM ?= video_recommendation
# A system is a folder on the second level with an environment of its own; algorithms share the root's.
SYSTEMS := $(patsubst %/pyproject.toml,%,$(filter-out artifacts/%,$(wildcard */*/pyproject.toml)))
# A job is a script on the third level with an environment of its own (Spark).
JOBS := $(patsubst %/pyproject.toml,%,$(filter-out artifacts/%,$(wildcard */*/*/pyproject.toml)))
ALGORITHMS := $(patsubst %/Makefile,%,$(wildcard ml_algorithms/*/Makefile))
FOLDER := $(filter %/$(SYSTEM),$(SYSTEMS))
PACKAGES := ml_platform ml_algorithms feature_engineering
HANDED_OVER := data train evaluate e2e serve bench notebooks
PAGES := README.md CLAUDE.md $(PACKAGES) $(wildcard monitoring)
BIN := .venv/bin
empty :=
space := $(empty) $(empty)

.PHONY: help setup setup-all e2e-all bench-algorithms notebooks-algorithms test lint format lock docs docs-check site site-serve clean $(HANDED_OVER)

help: ## this list
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:[^#]*## / {printf "  make %-20s %s\n", $$1, $$2}' Makefile
	@printf '  make %-20s %s\n' TARGET 'data train evaluate serve bench notebooks, of SYSTEM (now $(SYSTEM))'
	@printf '\nAlgorithms: make -C ml_algorithms/NAME help (%s)\n' '$(notdir $(ALGORITHMS))'
	@printf 'Systems: %s\nA system has more targets: make -C %s help\n' '$(notdir $(SYSTEMS))' '$(firstword $(SYSTEMS))'

setup: ## build the environment of SYSTEM and the root's (tests of the packages, linters)
	@bash scripts/setup.sh .
	@$(if $(FOLDER),bash scripts/setup.sh "$(FOLDER)",echo 'no system named $(SYSTEM); there are: $(notdir $(SYSTEMS))' >&2; exit 2)

setup-all: ## build every environment
	@bash scripts/setup.sh .
	@for folder in $(SYSTEMS) $(JOBS); do bash scripts/setup.sh "$$folder" || exit 1; done

e2e: ## run SYSTEM end to end: install, fetch, train, evaluate, serve, report
$(HANDED_OVER):
	@$(if $(FOLDER),,echo 'no system named $(SYSTEM); there are: $(notdir $(SYSTEMS))' >&2; exit 2)
	@$(MAKE) --no-print-directory -C "$(FOLDER)" $@

e2e-all: ## run every system end to end
	@for folder in $(SYSTEMS); do $(MAKE) --no-print-directory -C "$$folder" e2e || exit 1; done

bench-algorithms: setup ## measure every algorithm, one after the other (CONFIG=smoke: in minutes)
	@for folder in $(ALGORITHMS); do $(MAKE) --no-print-directory -C "$$folder" bench || exit 1; done

notebooks-algorithms: setup ## run the notebook of every algorithm
	@for folder in $(ALGORITHMS); do $(MAKE) --no-print-directory -C "$$folder" notebook || exit 1; done

# Each run leaves its own coverage file; the last two lines add them up and fail under the bar that
# pyproject.toml sets.
test: setup-all ## all tests, then the coverage of the packages and systems
	@rm -f .coverage .coverage.*
	COVERAGE_FILE="$(CURDIR)/.coverage.root" $(BIN)/python -m pytest tests \
		$(addprefix --cov=,$(PACKAGES)) --cov-report= --cov-fail-under=0 $(ARGS)
	@for folder in $(SYSTEMS); do \
		echo "== $$folder"; \
		COVERAGE_FILE="$(CURDIR)/.coverage.$$(basename "$$folder")" \
			$(MAKE) --no-print-directory -C "$$folder" test || exit 1; \
	done
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

lint: setup-all ## ruff, mypy, the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(addprefix -p ,$(PACKAGES))
	@for folder in $(SYSTEMS); do \
		echo "== types of $$folder"; \
		MYPYPATH="$$folder/src" $(BIN)/mypy --python-executable "$$folder/.venv/bin/python" \
			--cache-dir "$$folder/.mypy_cache" -p "$$(basename "$$folder")" || exit 1; \
	done
	PYTHONPATH="$(subst $(space),:,$(addsuffix /src,$(SYSTEMS)))" $(BIN)/lint-imports

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: setup-all ## write the numbers of results/ into every page
	$(BIN)/python -m ml_platform.docs.render $(PAGES)
	@for folder in $(SYSTEMS); do $(MAKE) --no-print-directory -C "$$folder" docs || exit 1; done

docs-check: setup-all ## fail if a number in a page differs from results/, or a link is dead
	$(BIN)/python -m ml_platform.docs.render --check $(PAGES)
	@for folder in $(SYSTEMS); do $(MAKE) --no-print-directory -C "$$folder" docs-check || exit 1; done

site: setup ## all pages as one searchable site in artifacts/site
	$(BIN)/python -m ml_platform.docs.website --out artifacts/site

site-serve: setup ## build the site and show it (PORT=8080)
	$(BIN)/python -m ml_platform.docs.website --out artifacts/site --serve $(if $(PORT),--port $(PORT))

lock: ## compile every requirements.txt afresh (ARGS=--upgrade for newer versions)
	@bash scripts/lock.sh $(ARGS)

clean: ## remove environments, caches and artifacts (never the data cache, never results/)
	@for folder in $(SYSTEMS); do $(MAKE) --no-print-directory -C "$$folder" clean || exit 1; done
	rm -rf ml_algorithms/*/artifacts $(addsuffix /.venv,$(JOBS))
	rm -rf .venv .tools artifacts .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
