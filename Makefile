PYTHON ?= python3
ARGS ?=
EXAMPLES ?= 2000
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d " ")
OUTPUT ?=
MINUTES ?= 10
HOURS ?= 24
BROKER ?= rabbitmq
STORE ?= postgres
SEEDS ?= 1000
BIN := .venv/bin
INSTALLED := .venv/.installed
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header pyproject.toml $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install run servers test stateful mutants simulate faults soak lint format bench lock vendor clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv with exactly the locked packages, by pip alone

$(INSTALLED): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jobbridge needs Python 3.11 or newer and $(PYTHON) is not; name one: make install PYTHON=python3.12" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) can't make a virtual environment; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: install ## Run the demonstration: three pods on one SQLite file, no broker needed
	$(BIN)/python -m tests.demo $(ARGS)

servers: install ## Get what the tests start: PostgreSQL, MariaDB, RabbitMQ, Kafka, Chromium (nothing is started here)
	@sh tests/servers/install.sh
	@$(BIN)/python -m tests.servers.kafka_files

test: servers lint ## Run lint and all tests against real servers, three at a time; ARGS="-k word" for some
	$(BIN)/pytest -n 3 --dist loadgroup --ignore=tests/bench $(ARGS)

stateful: servers ## Compare the stores with a dictionary in any order of verbs; EXAMPLES=20000 SEED=7 OUTPUT=result.json
	JOBBRIDGE_STATEFUL_EXAMPLES=$(EXAMPLES) JOBBRIDGE_STATEFUL_OUTPUT=$(OUTPUT) \
		$(BIN)/pytest tests/stateful --timeout 0 --hypothesis-seed $(SEED) $(ARGS)

mutants: servers ## Break the product in one place after another and see a test fail for each; ARGS="-k word" for some
	$(BIN)/python -m tests.mutants $(ARGS)
simulate: install ## Run simulated pods on all cores, SEEDS=n runs; ARGS="--first 501 --output FILE"
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

lint: install ## Check style, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: servers ## Measure speed, as a ratio to the raw clients
	$(BIN)/python -m tests.bench $(ARGS)

faults: servers ## Kill, freeze, cut and flood real pods and servers; MINUTES=10 SEED=1 BROKER=kafka STORE=mariadb
	$(BIN)/python -m tests.faults --minutes $(MINUTES) --seed $(SEED) --broker $(BROKER) --store $(STORE) $(ARGS)

soak: servers ## The same for hours, more calmly, and nothing may grow; HOURS=24, or a part of one
	$(BIN)/python -m tests.faults.soak --hours $(HOURS) --seed $(SEED) --broker $(BROKER) --store $(STORE) $(ARGS)

lock: install ## Write both lock files anew from pyproject.toml; ARGS=--upgrade for newer versions
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(UV_COMPILE) --extra all --output-file requirements.lock
	$(UV_COMPILE) --extra all --extra dev --output-file requirements-dev.lock

vendor: install ## Fetch the scripts that pages load from their npm packages; ARGS=--new after a version was changed
	$(BIN)/python -m tests.dashboard.vendor $(ARGS)

clean: ## Delete all that make has put here, .venv too
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find bridge scheduler tests -name __pycache__ -type d -prune -exec rm -rf {} +
