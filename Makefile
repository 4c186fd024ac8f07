# An alias for the command `contrastive` in the locked environment of .venv, which the first target
# installs. The program reads what is typed behind a target from MAKEFLAGS (common/make.py), and no
# rule refers to it, so neither make nor a shell evaluates it.

override TYPED := $(foreach each.name,$(.VARIABLES),$(if $(filter command,$(origin $(each.name))),$(each.name)))
unexport $(TYPED)  # make would evaluate them for the environment of a recipe

override VERBS   := list show check check-all data train eval export run smoke compare compare-all evidence \
                    sweep runs diff report prune dashboard new-project
override SCRIPTS := mutants bench gpu-check faults test-peers arena
override PLAIN   := help setup test test-all pin test-gpu lint type imports docs notebooks audit lock clean

# before anything runs: make reaches a word without a rule last
$(foreach each.goal,$(filter-out $(VERBS) $(SCRIPTS) $(PLAIN) .venv/%,$(MAKECMDGOALS)),\
  $(error there is no target '$(each.goal)': settings are typed as a.b=c, make help lists targets))
$(foreach each.goal,$(filter $(PLAIN),$(MAKECMDGOALS)),$(foreach each.name,$(filter-out PYTHON EVAL,$(TYPED)),\
  $(error make $(each.goal) takes no $(each.name))))

# EVAL=1 adds the eval group; once added it stays until .venv is removed
PYTHON ?= python3
override PYTHON := $(value PYTHON)
export PYTHON
override VENV  := .venv
override PY    := $(VENV)/bin/python
override EXTRA := $(filter 1 yes true,$(value EVAL))$(wildcard $(VENV)/.stamp-requirements-eval.lock)
override LOCK  := $(if $(EXTRA),requirements-eval.lock,requirements.lock)
override STAMP := $(VENV)/.stamp-$(LOCK)
# an image that forbids compiled modules would make each command compile torch again
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: $(VERBS) $(SCRIPTS) $(PLAIN)

# exec: a signal to make reaches the program, not a shell before it
$(VERBS) $(SCRIPTS): $(STAMP)
	@exec $(PY) -m common.cli --make $@

help: ## this list
	@echo "make <target> [PROJECT=... CONFIG=... a.b=c ...]"; grep -hE '^[a-z-]+:.*## ' Makefile | \
	  awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'
	@if test -x $(PY); then exec $(PY) -m common.cli --help; else echo "  $(VERBS): described after make setup"; fi

mutants:   ## changes of a project's objective that no test notices: PROJECT= [ARGS="--limit 40 --files data"]
bench:     ## benchmarks: [KERNEL=losses] [ARGS=--quick]
gpu-check: ## all that needs a CUDA device, in pieces of nine minutes: [ARGS="--minutes 9" | --dry-run]
faults:    ## kills, soak, kernels compiled, two nodes: [ARGS="--kills 5 --soak-minutes 3"]
arena:     ## all losses of a family under equal conditions: [FAMILY=images SCALE=mini JOBS=2]
test-peers: ## our losses in the loops of other libraries: [ARGS="--sources FOLDER"]

$(STAMP): $(LOCK)
	@test -x $(PY) || "$$PYTHON" -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.12 ..."; rm -rf $(VENV); exit 2; }
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@echo "installing the locked environment into $(VENV) ..." >&2
	@VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip sync --quiet --require-hashes $(LOCK)
	@rm -f $(VENV)/.stamp-*; touch $@

setup: $(STAMP) ## install the locked environment in .venv (EVAL=1 adds the eval group)

# mypy takes one core for a minute, so it runs beside the tests
test: lint imports ## what a contributor runs before every commit
	@$(VENV)/bin/mypy & $(PY) -m pytest tests -n logical --maxprocesses 4; tests=$$?; wait $$! && exit $$tests

test-all: lint imports ## every test, for a release
	@$(VENV)/bin/mypy & $(PY) -m pytest tests -n logical --maxprocesses 4 --all; tests=$$?; wait $$! && exit $$tests

pin: $(STAMP) ## rewrite the pinned smoke metrics after a change of numbers on purpose
	@exec $(PY) -m pytest tests/pinned --pin

test-gpu: $(STAMP) ## kernel tests on a CUDA device
	@exec $(PY) -m pytest tests/gpu -rs

lint: $(STAMP) ## ruff, formatting, spelling
	@$(VENV)/bin/ruff check --quiet . && $(VENV)/bin/ruff format --quiet --check . && $(VENV)/bin/codespell

type: $(STAMP) ## mypy
	@$(VENV)/bin/mypy

imports: $(STAMP) ## import directions
	@report=$$($(VENV)/bin/lint-imports --no-cache 2>&1) || { echo "$$report"; exit 1; }

docs: $(STAMP) ## the documentation site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet && \
	  echo 'build/site/index.html; with search: python -m http.server -d build/site'

notebooks: $(STAMP) ## Jupyter Lab with the notebooks of examples/
	@test -x $(VENV)/bin/jupyter-lab || \
	  VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip install --quiet --require-hashes -r requirements-notebooks.lock
	@PYTHONPATH="$$PWD" exec $(VENV)/bin/jupyter lab --notebook-dir examples

audit: $(STAMP) ## known vulnerabilities of the locked packages; their list in build/sbom.json (network)
	@mkdir -p build && $(VENV)/bin/uv tool run --quiet --from cyclonedx-bom==7.2.1 cyclonedx-py requirements $(LOCK) \
	  -o build/sbom.json && $(VENV)/bin/uv tool run --quiet --from pip-audit==2.10.1 pip-audit --strict --require-hashes \
	  --disable-pip -r $(LOCK)

lock: ## recompile the lock files from pyproject.toml
	@for extras in "" eval notebooks peers "video audio large"; do \
	  $(VENV)/bin/uv pip compile pyproject.toml --generate-hashes --no-annotate --no-header --universal --python-version 3.11 --quiet \
	    $$(printf ' --extra %s' all dev $$extras) -o requirements$$(printf -- '-%s' $$extras | sed 's/^-$$//').lock >/dev/null; done

clean: ## remove caches and reports (runs stay)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache reports build; find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
