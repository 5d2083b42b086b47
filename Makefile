# Two commands from a fresh clone: `make demo` and `make test`. Each makes the environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCHMARKS := $(sort $(wildcard tests/benchmarks/bench_*.py))

# OpenMP threads that wait by spinning steal the cores from the other processes.
export OMP_WAIT_POLICY := PASSIVE
# Without compiled files every process, each of Ray's too, would compile all of torch again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test lint bench chaos chaos-train networks clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:[^#]*## /\t/' | expand -t 14

venv: $(STAMP) ## Make .venv with the package and everything that tests need

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ExtPose needs Python 3.11 or newer, $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments: install its venv package" \
	    "(Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@echo "Installing into $(VENV) (about 2 GB, one to three minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## A real video through the whole line; pictures and report in demo/
	$(BIN)/extpose demo --out demo $(DEMO_OPTIONS)

test: $(STAMP) ## All tests, on up to four cores
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

lint: $(STAMP) ## Style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## Every benchmark, one after the other
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python $$file; done

chaos: $(STAMP) ## Kill and break things at random moments, and compare what comes out in the end
	$(BIN)/python -m tests.chaos.preprocess $(CHAOS_OPTIONS)

chaos-train: $(STAMP) ## Kill trainings at seeded moments; CHAOS_OPTIONS="--seed 2 --runs 10"
	$(BIN)/python -W ignore -m tests.chaos.train $(CHAOS_OPTIONS)

networks: $(STAMP) ## Train the packaged networks again (two hours on two cores; runs/networks/)
	$(BIN)/extpose synth --out runs/networks/poses --num-clips 12000 --num-frames 4 --fps 7.5 --image-size 256 256 --crop.size 128
	$(BIN)/extpose synth --out runs/networks/bodies --num-clips 1600 --image-size 256 256 --crop.size 128
	$(BIN)/extpose train free-body --data runs/networks/poses --out runs/networks/body-image
	$(BIN)/extpose train free-body-video --data runs/networks/bodies --out runs/networks/body \
	  --init runs/networks/body-image/model.safetensors
	$(BIN)/extpose export runs/networks/body runs/networks/body.safetensors --precision fp16
	$(BIN)/extpose synth --body hand --out runs/networks/hands --num-clips 640 --image-size 256 256 --crop.size 128
	$(BIN)/extpose train free-hand --data runs/networks/hands --out runs/networks/hand-begun
	$(BIN)/extpose train free-hand --data runs/networks/hands --out runs/networks/hand \
	  --init runs/networks/hand-begun/model.safetensors --steps 2070 --batch 16 --engine.lr 1.5e-3 \
	  --loss.keypoints-3d 25 --loss.global-orient 5 --loader.mask-rgb 0.7 --loader.mask-skeleton 0.05
	$(BIN)/extpose export runs/networks/hand runs/networks/hand.safetensors --precision fp16

clean: ## Remove the environment, caches and what the demo made; `data/` and `runs/` stay
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find extpose pipelines cluster tests -name __pycache__ -type d -prune -exec rm -rf {} +
