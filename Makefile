# Each target does its own set-up: tools/with-libtorch checks the tools, and finds libtorch or downloads it into the cache.
#   LIBTORCH, LIBTORCH_USE_PYTORCH   use an existing libtorch or PyTorch
#   TINYGATE_CACHE                   where libtorch and builds are kept (default ~/.cache/tinygate)
#   TINYGATE_JOBS                    parallel compile jobs (default: all cores)
#   PREFIX                           where `make install` puts bin/tinygate (default ~/.local)
#   CARGO_ARGS                       more arguments for cargo, such as --locked

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PREFIX ?= $(HOME)/.local
PYTHON := $(or $(TINYGATE_PYTHON),python3)
WITH := tools/with-libtorch
export CARGO_ARGS

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: ## Train the three stages on Pong, gate by gate, and replay every decision
	$(WITH) tools/demo.sh

.PHONY: test
test: test-setup test-python ## Test everything
	$(WITH) tools/test.sh

.PHONY: test-setup
test-setup: ## Test only the set-up scripts
	@command -v $(PYTHON) >/dev/null || { echo 'error: there is no $(PYTHON)'; echo 'hint: install Python 3.9 or newer with pip'; exit 2; } >&2
	$(PYTHON) -m unittest discover --start-directory tests/setup

.PHONY: test-python
test-python: ## Test the Python package
	@command -v $(PYTHON) >/dev/null || { echo 'error: there is no $(PYTHON)'; echo 'hint: install Python 3.9 or newer'; exit 2; } >&2
	$(PYTHON) -m unittest discover --start-directory python/tests

.PHONY: check
check: ## Check format and lints
	tools/format.sh --check
	$(WITH) cargo clippy --workspace --all-targets $(CARGO_ARGS) -- -D warnings

.PHONY: build
build: ## Build the program and print its path
	$(WITH) cargo build --workspace $(CARGO_ARGS)
	@$(WITH) bash -c 'echo "$$CARGO_TARGET_DIR/debug/tinygate"'

.PHONY: install
install: ## Build the program and put it into PREFIX/bin (default ~/.local)
	$(WITH) cargo build --package tinygate-cli $(CARGO_ARGS)
	@$(WITH) bash -c 'install -D -m 755 "$$CARGO_TARGET_DIR/debug/tinygate" "$(PREFIX)/bin/tinygate"'
	@echo '$(PREFIX)/bin/tinygate'

.PHONY: sim
sim: ## Simulate runs with faults: SEEDS=10000 from FROM=0, or SEED=7 (with only its faults KEEP=3,9)
	tools/sim.sh $(if $(SEED),--seed $(SEED) $(if $(KEEP),--keep $(KEEP)),--seeds $(or $(SEEDS),300) --from $(or $(FROM),0))

.PHONY: replay-alone
replay-alone: ## Build and test the auditor alone, without libtorch
	tools/replay-alone.sh

.PHONY: interop
interop: ## Check our files with the real PyTorch (4.7 GB, in the cache)
	$(WITH) tools/interop.sh

.PHONY: parity
parity: ## Compare with TinyWorlds' own numbers
	$(WITH) cargo test --package tinygate --test parity $(CARGO_ARGS) -- --nocapture

.PHONY: kills
kills: ## Kill training runs at KILLS random moments (default 200), and as many while their log is created, and compare the results
	TINYGATE_KILLS=$(or $(KILLS),200) TINYGATE_EARLY_KILLS=$(or $(KILLS),200) TINYGATE_SEED=$(SEED) $(WITH) cargo test --package tinygate-cli --test kills $(CARGO_ARGS) -- --nocapture

.PHONY: powercut
powercut: ## Simulate RUNS power cuts (default 100) while a log is written (needs root)
	$(WITH) tools/powercut.sh $(or $(RUNS),100) $(SEED)

.PHONY: damage
damage: ## Damage a small log in every way and print the outcomes (takes minutes)
	TINYGATE_DAMAGE=full tools/damage.sh

.PHONY: mutants
mutants: ## Check that tests detect MUTANTS changes of store and machine (default 60, or all; SEED, FROM) and those of tests/mutants
	MUTANTS=$(MUTANTS) SEED=$(SEED) FROM=$(FROM) HAND=$(HAND) tools/mutants.sh

.PHONY: fuzz
fuzz: ## Fuzz each reader for SECONDS (default 20)
	tools/fuzz.sh $(or $(SECONDS),20)

.PHONY: bench
bench: ## Run the benchmarks
	@if [ -z "$(wildcard benches/*.rs replay/benches/*.rs cli/benches/*.rs)" ]; then echo 'there are no benchmarks yet'; else set -x; $(WITH) cargo bench --workspace $(CARGO_ARGS); fi

.PHONY: clean-cache
clean-cache: ## Remove libtorch, the interop environment and all builds from the cache
	tools/clean-cache.sh
