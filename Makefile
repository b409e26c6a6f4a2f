# `make` shows what there is. All but `clean`, `down`, `status` and `logs` install first, if something is new.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help install models up doctor demo down status logs plan test fuzz test-compose test-clients wheels lint lock hashes clean \
	bench-encoders bench-engines bench-overload bench-gateway bench-llm bench-cache bench-redis-faults bench-churn bench-search bench-vectors \
	bench-precompute bench-relevance bench-classifier bench-strategy

PYTHON ?= python3.11
BIN := .venv/bin
# Under WSL any maker's graphics are /dev/dxg; NVIDIA's driver for Windows brings the library.
CUDA_LIBRARY = $(wildcard /usr/lib/wsl/lib/libcuda.so.1 /usr/lib/wsl/drivers/*/libcuda.so.1*)
# Whoever has the CUDA builds keeps them: while a machine boots, its card may not be there yet.
CARD = $(or $(wildcard /dev/nvidia[0-9]*),$(and $(wildcard /dev/dxg),$(CUDA_LIBRARY)),$(wildcard .venv/installed-cuda))
# USE_GPU=false, in the environment or in .env, wants the CPU builds: vLLM's CUDA build does not run without a card.
DOTENV_USE_GPU = $(shell sed -n "s/^ *\(export  *\)*use_gpu *= *[\"']*\([a-z0-9]*\).*/\2/Ip" .env 2>/dev/null | tail -n 1)
NO_GPU = $(filter false 0 no off f n,$(shell echo '$(or $(USE_GPU),$(DOTENV_USE_GPU))' | tr A-Z a-z))
FLAVOUR ?= $(if $(NO_GPU),cpu,$(if $(CARD),cuda,cpu))
# Whatever the locale is, files are in UTF-8.
export PYTHONUTF8 := 1
STAMP := .venv/installed-$(FLAVOUR)
# For what looks at a stack that may run: its files are not replaced under it.
INSTALLED := [ -x $(BIN)/onecard ] || { echo "Nothing is installed. 'make up' installs everything and starts it."; exit 1; }

help: ## Show this list
	@echo "Onecard: chat, sentiment and embeddings behind one gateway. make <target>:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install everything, as constraints.txt pins and hashes.txt knows it

$(STAMP): constraints.txt constraints-cuda.txt hashes.txt tools/install.py $(wildcard */pyproject.toml)
	@command -v $(PYTHON) > /dev/null || { echo "Onecard needs Python 3.11, and there is no '$(PYTHON)' here. Install it, or set PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) tools/install.py --flavour $(FLAVOUR)
	@rm -f .venv/installed-*
	@touch $@

models: $(STAMP) ## Fetch the models; where the hub cannot be reached, train small stand-ins
	@$(BIN)/onecard models

up: $(STAMP) ## Start the whole stack and leave it running
	@$(BIN)/onecard up

doctor: $(STAMP) ## Check this machine, its card and the models, and say what to do; as JSON with JSON=1
	@$(BIN)/onecard doctor $(if $(filter 1 true,$(JSON)),--json)

demo: $(STAMP) ## Show it at work: sentiment, reviews stored, searched and summarised, a streamed answer
	@$(BIN)/onecard demo

down: ## Stop everything that 'make up' started
	@if [ -x $(BIN)/onecard ]; then $(BIN)/onecard down; \
	elif kill -0 $$(cat .onecard/run/supervisord.pid 2> /dev/null) 2> /dev/null; then \
	echo "A stack runs, and .venv is not there any more. Type 'make install', then 'make down'."; exit 1; \
	else echo "Nothing is installed, so nothing runs."; fi

status: ## Show the state of every part
	@$(INSTALLED); $(BIN)/onecard status

logs: ## Follow the logs; one part's with part=llm
	@$(INSTALLED); $(BIN)/onecard logs $(part) -f

plan: $(STAMP) ## Show how a card's memory is shared; also with GPU_GB=40 CONTEXT=8192 INT4=1 JSON=1
	@$(BIN)/onecard plan $(if $(GPU_GB),--gpu-gb $(GPU_GB)) $(if $(CONTEXT),--context $(CONTEXT)) $(if $(filter 1 true,$(INT4)),--int4) $(if $(filter 1 true,$(JSON)),--json)

test: $(STAMP) ## Run all tests, against real servers; a part of them with only=tests/stack, by more than two at once with workers=3
	@$(BIN)/python -m standins train --out .onecard/models
	@$(BIN)/python -m pytest -n $(or $(workers),2) $(only)

fuzz: $(STAMP) ## Hostile bytes for ten minutes, 200 s a target; other times with seconds=20, a run again with seed=7
	@FUZZ_SECONDS=$(or $(seconds),200) $(if $(seed),FUZZ_SEED=$(seed)) $(BIN)/python -m pytest -n 0 -s --timeout 0 tests/fuzz

wheels: $(STAMP) ## Put torch's CPU build into wheels/, for images that are built where PyTorch's index cannot be reached
	@grep '^torch==.*+cpu' hashes.txt > wheels/torch.txt
	@$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest wheels -r wheels/torch.txt

test-compose: $(STAMP) ## Build the images and run the whole stack in containers, on the CPU, with Docker
	@[ -n "$$ONECARD_TEST_MODELS" ] || $(BIN)/python -m standins train --out .onecard/models
	@ONECARD_TEST_COMPOSE=1 $(BIN)/python -m pytest -n 0 --timeout 3600 tests/compose

test-clients: $(STAMP) ## Run other people's clients against the stack: SDKs, frameworks, the JDK's, curl, load generators
	@$(BIN)/python -m standins train --out .onecard/models
	@ONECARD_TEST_CLIENTS=1 $(BIN)/python -m pytest -n 0 --timeout 900 tests/clients

lint: $(STAMP) ## Check style, types and layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

lock: $(STAMP) ## Resolve constraints.txt anew from the pyproject files, and hashes.txt with it
	@tools/lock.sh

# Not after an installation, which refuses a pin without a hash.
hashes: ## After a pin was changed by hand: put the hashes of its wheels into hashes.txt
	@[ -x $(BIN)/uv ] || { echo "Nothing is installed: type 'make install' before a pin is changed."; exit 1; }
	@tools/lock.sh hashes

bench-encoders: $(STAMP) ## Measure the encoder beside its peers; a short look with options=--quick
	@$(BIN)/python -m bench.encoders $(options)

bench-engines: $(STAMP) ## Measure what vectors and labels are worth by each engine, and its memory
	@$(BIN)/python -m standins train --out .onecard/models --only embedding
	@$(BIN)/python -m standins train --out .onecard/models --only sentiment
	@$(BIN)/python -m bench.engines $(options)

bench-overload: $(STAMP) ## Flood the encoder with four times what it can do, alone and through the gateway
	@$(BIN)/python -m bench.overload $(options)

bench-gateway: $(STAMP) ## Measure the gateway beside other relays; options=--quick, or options=--soak for its memory
	@$(BIN)/python -m bench.gateway $(options)

bench-llm: $(STAMP) ## Measure vLLM directly and through the gateway; a short look with options=--quick
	@$(BIN)/python -m standins train --out .onecard/models
	@$(BIN)/python -m bench.llm $(options)

bench-cache: $(STAMP) ## Measure what the cache saves; a short look with options=--quick
	@$(BIN)/python -m bench.cache $(options)

bench-redis-faults: $(STAMP) ## Make Redis ill under load, in ten ways; a short look with options=--quick
	@$(BIN)/python -m standins train --out .onecard/models --only sentiment
	@$(BIN)/python -m bench.redis_faults $(options)

bench-churn: $(STAMP) ## Ten minutes of puts and gets on the cache's memory; less with options="--seconds 60"
	@$(BIN)/python -m bench.churn $(options)

bench-search: $(STAMP) ## Measure searches through the gateway, in stores of 10,000 and 200,000 reviews
	@$(BIN)/python -m standins train --out .onecard/models --only embedding
	@$(BIN)/python -m bench.search_service $(options)

bench-vectors: $(STAMP) ## Measure vector search beside FAISS and NumPy; a short look with options=--quick
	@$(BIN)/python -m bench.search $(options)

bench-precompute: $(STAMP) ## Measure what precomputing costs live traffic; a short look with options=--quick
	@$(BIN)/python -m standins train --out .onecard/models
	@$(BIN)/python -m bench.precompute $(options)

bench-relevance: $(STAMP) ## Measure what vector, keyword and hybrid search find, on real Korean text
	@$(BIN)/python -m standins train --out .onecard/models --only embedding
	@$(BIN)/python -m bench.relevance $(options)

bench-classifier: $(STAMP) ## Measure what the sentiment classifier gets right, on real Korean reviews
	@$(BIN)/python -m standins train --out .onecard/models --only sentiment
	@$(BIN)/python -m bench.classifier $(options)

bench-strategy: $(STAMP) ## Replay a day against each phase of the strategy: promised and measured; options=--quick
	@$(BIN)/python -m standins train --out .onecard/models --only llm
	@$(BIN)/python -m bench.strategy $(options)

clean: down ## Stop everything; remove the environment and all caches, but not the models
	rm -rf .venv .venvs .onecard/run .onecard/logs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} + ; find . -maxdepth 2 -name '*.egg-info' -exec rm -rf {} +
