# One line each over `python -m common.cli <verb> <project> <config> [key=value ...]`.
# Anything of the form a.b=c on the command line is forwarded as a typed config override.

# What is typed behind a target is data: neither make nor the shell evaluates it. Each value becomes a
# simple variable, is put between quotes, and reaches the program as the word that was typed.
override define NEWLINE


endef
override OWN   := ARM PROJECT CONFIG PYTHON TASK RUN CKPT SEEDS JOBS ARMS ONLY PLAN BASELINE SLUG TRIALS WANDB KERNEL EVAL ARGS TIMES BUDGETS ENTITY DRY WHERE A B YES
override TYPED := $(sort $(foreach v,$(.VARIABLES),$(if $(filter command,$(origin $v)),$v)))
$(foreach v,$(TYPED),$(if $(findstring $(NEWLINE),$(value $v)),$(error the value of $v has a line break)))
$(foreach v,$(TYPED) $(OWN),$(if $(filter command environment,$(origin $v)),$(eval override $v := $$(value $v))))
override quoted = '$(subst ','\'',$1)'
override split  = $(foreach w,$1,$(call quoted,$w))
override option = $(if $2,$(call quoted,--$1=$2))
override yes    = $(filter 1 yes true,$1)

# what each target reads; anything else of OWN that is typed beside it is refused, so that none is typed in vain
override TAKES-list :=
override TAKES-show := PROJECT CONFIG
override TAKES-check := PROJECT CONFIG
override TAKES-train := PROJECT CONFIG ARM
override TAKES-eval := PROJECT CONFIG RUN CKPT BASELINE
override TAKES-export := PROJECT CONFIG RUN CKPT
override TAKES-compare := PROJECT PLAN SEEDS JOBS ARMS ONLY
override TAKES-compare-all := PROJECT JOBS
override TAKES-check-all := PROJECT
override TAKES-evidence := PROJECT
override TAKES-sweep := PROJECT TRIALS JOBS ARMS WANDB
override TAKES-run := PROJECT CONFIG TASK
override TAKES-report := PROJECT
override TAKES-smoke := PROJECT
override TAKES-runs := PROJECT WHERE
override TAKES-prune := PROJECT WHERE YES
override TAKES-diff := A B
override TAKES-dashboard := PROJECT CONFIG ENTITY DRY
override TAKES-test := TIMES BUDGETS
override TAKES-faults := ARGS
override TAKES-gpu-check := ARGS
override TAKES-mutants := PROJECT ARGS
override TAKES-bench := KERNEL ARGS
override TAKES-new-project := SLUG
override VERBS := show check check-all train eval compare compare-all evidence sweep run runs diff prune dashboard report export smoke
override PLAIN := help setup list test faults test-gpu gpu-check lint type imports bench mutants docs tables changelog new-project lock clean
# before anything is begun: make would come to a word without a rule last
$(foreach g,$(filter-out $(VERBS) $(PLAIN) .venv/%,$(MAKECMDGOALS)),$(error there is no target '$g': settings are typed as a.b=c, make help lists targets))
override TAKEN := PYTHON EVAL $(foreach g,$(MAKECMDGOALS),$(TAKES-$g))
$(foreach v,$(filter $(OWN),$(TYPED)),$(if $(filter $v,$(TAKEN)),,$(error make $(MAKECMDGOALS) takes no $v)))
# other names are settings of a run, which the plain targets have none of
$(foreach v,$(filter-out $(OWN),$(TYPED)),$(if $(filter-out $(PLAIN),$(MAKECMDGOALS)),,$(if $(MAKECMDGOALS),$(error make $(MAKECMDGOALS) takes no $v))))

PROJECT ?=
CONFIG  ?= mini
TIMES   ?= reports/test-times.md
PYTHON  ?= python3
override SETTINGS := $(foreach v,$(filter-out $(OWN),$(TYPED)),$(call quoted,$v=$($v)))
override VENV := .venv
override PY   := $(VENV)/bin/python
# exec: a signal to make reaches the program, not a shell before it
override CLI   := exec $(PY) -m common.cli
override WHICH := $(call quoted,$(PROJECT)) $(call quoted,$(CONFIG))
# EVAL=1 adds the eval group; once added it stays until .venv is removed
override LOCK  := $(if $(call yes,$(EVAL))$(wildcard $(VENV)/.stamp-requirements-eval.lock),requirements-eval.lock,requirements.lock)
override STAMP := $(VENV)/.stamp-$(LOCK)

# Python keeps what it has compiled, in an image that forbids it too: each command would compile torch and Lightning
# anew (import of the engine on two slow cores: 24 s in place of 10)
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: $(PLAIN) $(VERBS)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): $(LOCK)
	@test -x $(PY) || $(call quoted,$(PYTHON)) -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.12 ..."; rm -rf $(VENV); exit 2; }
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@echo "installing the locked environment into $(VENV) ..." >&2
	@VIRTUAL_ENV=$(VENV) $(VENV)/bin/uv pip sync --quiet --require-hashes $(LOCK)
	@rm -f $(VENV)/.stamp-*; touch $@

setup: $(STAMP) ## the locked environment in .venv (EVAL=1 adds the eval group)

list: $(STAMP) ## projects and their configs
	@$(CLI) list

show: $(STAMP) ## resolved config: PROJECT= [CONFIG=] [a.b=c]
	@$(CLI) show $(WHICH) $(SETTINGS)

check: $(STAMP) ## dry run: parameters, steps, memory, missing data: PROJECT= [CONFIG=paper]
	@$(CLI) check $(call quoted,$(PROJECT)) $(if $(filter file,$(origin CONFIG)),paper,$(call quoted,$(CONFIG))) $(SETTINGS)

check-all: $(STAMP) ## every paper config: FLOPs, steps, memory, hours, needs; writes reports/cost.md
	@$(CLI) check-all $(call split,$(PROJECT)) $(SETTINGS)

train: $(STAMP) ## train and evaluate: PROJECT= [CONFIG=mini | ARM=of compare.yaml] [resume=latest] [a.b=c]
	@$(CLI) train $(call quoted,$(PROJECT)) $(if $(and $(ARM),$(filter file,$(origin CONFIG))),,$(call quoted,$(CONFIG))) $(SETTINGS) $(call option,arm,$(ARM))

eval: $(STAMP) ## evaluation protocol: PROJECT= [CONFIG=] [RUN=latest | CKPT=path | BASELINE=name]
	@$(CLI) eval $(WHICH) $(SETTINGS) $(call option,run,$(RUN)) $(call option,ckpt,$(CKPT)) $(call option,baseline,$(BASELINE))

compare: $(STAMP) ## method against baselines: PROJECT= [PLAN=1] [SEEDS=2|10,11] [JOBS=1] [ARMS=a,b|full] [ONLY=name]
	@$(CLI) compare $(call quoted,$(PROJECT)) $(SETTINGS) $(call option,seeds,$(SEEDS)) $(call option,jobs,$(JOBS)) $(call option,arms,$(ARMS)) $(call option,only,$(ONLY)) $(if $(call yes,$(PLAN)),--plan)

compare-all: $(STAMP) ## every comparison not yet measured at this commit, at lowest priority, resumable: [PROJECT="a b"] [JOBS=1]
	@$(CLI) compare-all $(call split,$(PROJECT)) $(SETTINGS) $(call option,jobs,$(JOBS))

evidence: $(STAMP) ## all claims with verdict and interval; writes docs/evidence.md
	@$(CLI) evidence $(call split,$(PROJECT)) $(SETTINGS)

sweep: $(STAMP) ## vary settings by configs/<project>/sweep.yaml: PROJECT= [TRIALS=20, not of a grid] [JOBS=1] [ARMS=a,b] [WANDB=1]
	@$(CLI) sweep $(call quoted,$(PROJECT)) $(SETTINGS) $(call option,trials,$(TRIALS)) $(call option,jobs,$(JOBS)) $(call option,arms,$(ARMS)) $(if $(call yes,$(WANDB)),--wandb)

run: $(STAMP) ## a project's own task: PROJECT= TASK= [a.b=c]
	@$(CLI) run $(WHICH) $(SETTINGS) $(call option,task,$(TASK))

report: $(STAMP) ## static pages of runs and comparisons; of everything without a project: [PROJECT=]
	@$(CLI) report $(call split,$(PROJECT)) $(SETTINGS)

runs: $(STAMP) ## runs at hand: [PROJECT=] [WHERE='state=failed, seed>=3']
	@$(CLI) runs $(call split,$(PROJECT)) $(call option,where,$(WHERE)) $(SETTINGS)

diff: $(STAMP) ## settings and metrics in which two runs differ: A= B= (ids or folders)
	@$(CLI) diff $(call quoted,$(A)) $(call quoted,$(B)) $(SETTINGS)

prune: $(STAMP) ## name failed and superseded runs; YES=1 removes them: [PROJECT=] [WHERE='config=mini']
	@$(CLI) prune $(call split,$(PROJECT)) $(call option,where,$(WHERE)) $(if $(call yes,$(YES)),--yes) $(SETTINGS)

dashboard: $(STAMP) ## W&B workspace of a project: PROJECT= ENTITY= | DRY=1 prints it
	@$(CLI) dashboard $(WHICH) $(SETTINGS) $(call option,entity,$(ENTITY)) $(if $(call yes,$(DRY)),--dry-run)

export: $(STAMP) ## trained model in its field's format, into export/ of the run or <name>-export beside CKPT: PROJECT= [RUN=latest | CKPT=path]
	@$(CLI) export $(WHICH) $(SETTINGS) $(call option,run,$(RUN)) $(call option,ckpt,$(CKPT))

smoke: $(STAMP) ## train, evaluate, export, reload the smoke config: [PROJECT=]
	@$(CLI) smoke $(call split,$(PROJECT)) $(SETTINGS)

test: lint type imports ## lint, types, import rules and all tests; CPU seconds: [TIMES=file] [BUDGETS=fail]
	@exec $(PY) -m pytest tests -n logical --maxprocesses 4 --cpu-seconds $(call quoted,$(TIMES)) $(if $(filter fail,$(BUDGETS)),--cpu-budgets)

# files with tests that are marked nightly
override LATE := tests/unit/kernels/test_triton_aot.py tests/unit/kernels/gpu/test_launch.py tests/test_nodes.py tests/test_resume.py tests/test_new_project.py tests/test_pretrain.py \
	tests/test_docs.py tests/test_site.py tests/test_examples.py tests/unit/test_suite.py tests/unit/engine/test_dependencies.py tests/unit/engine/test_comparison_evidence.py tests/unit/engine/lifecycle/test_forks.py

faults: $(STAMP) ## tests/faults, then 50 kills, an hour of soak, all kernels compiled, two nodes: [ARGS="--kills 5 --soak-minutes 3"]
	@exec $(PY) -m pytest tests/faults tests/nightly $(LATE) --nightly $(call split,$(ARGS))

test-gpu: $(STAMP) ## kernel tests on a CUDA device
	@exec $(PY) -m pytest tests/gpu -rs

gpu-check: $(STAMP) ## all that needs a CUDA device, in pieces of nine minutes: [ARGS="--minutes 9" | --dry-run]
	@exec $(PY) benchmarks/gpu_check.py $(call split,$(ARGS))

lint: $(STAMP) ## ruff, formatting, spelling
	@$(VENV)/bin/ruff check --quiet . && $(VENV)/bin/ruff format --quiet --check . && $(VENV)/bin/codespell

type: $(STAMP) ## mypy
	@$(VENV)/bin/mypy

imports: $(STAMP) ## import directions
	@$(VENV)/bin/lint-imports --no-cache > .import-report 2>&1 || { cat .import-report; exit 1; }; rm -f .import-report

mutants: $(STAMP) ## changes of a project's objective that no test notices: PROJECT= [ARGS="--limit 40 --minutes 30"]
	@exec $(PY) scripts/mutants.py $(call quoted,$(PROJECT)) $(call split,$(ARGS))

bench: $(STAMP) ## benchmarks: [KERNEL=losses] [ARGS=--quick]
	@exec $(PY) $(call quoted,benchmarks/bench_$(or $(KERNEL),losses).py) $(call split,$(ARGS))

docs: $(STAMP) ## the documentation site, in build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet && echo build/site/index.html

tables: $(STAMP) ## README's table of projects
	@exec $(PY) scripts/make_tables.py

changelog: $(STAMP) ## move docs/changelog.d into CHANGELOG.md, after a merge
	@exec $(PY) scripts/collect_changelog.py

new-project: $(STAMP) ## skeleton of a project: SLUG=
	@exec $(PY) scripts/new_project.py $(call quoted,$(SLUG))

lock: ## recompile the lock files from pyproject.toml
	@for g in "dev requirements.lock" "dev,eval requirements-eval.lock"; do set -- $$g; \
	  $(VENV)/bin/uv pip compile pyproject.toml $$(echo $$1 | tr , '\n' | sed 's/^/--extra /') --generate-hashes \
	  --no-annotate --no-header --universal --python-version 3.11 --quiet -o $$2 >/dev/null; done

clean: ## remove caches and reports (runs stay)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache reports build; find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
