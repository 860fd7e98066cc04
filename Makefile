# Everything that one does here, by name. On a new machine Python 3.11, make and pip are enough: each target sets up
# what it needs, once, in .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# One thing after the other, also with -j: the tests want the machine, and `check` ends with their summary.
.NOTPARALLEL:
.PHONY: help setup demo test processes bench chaos soak faults docs image lint types imports paths superdialog versions check lock clean

VENV := .venv
SUPERDIALOG := .venv-superdialog
VERSIONS := .venv-versions
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOCK := requirements/dev.txt
PIP_LOCK := requirements/pip.txt
IMAGE_LOCK := requirements/image.txt
SUPERDIALOG_LOCK := requirements/superdialog.txt

# All extras but superdialog, which holds back others: it has a lock and an environment of its own.
EXTRAS := embedded dev fast anthropic langchain langgraph mcp openai prices dotenv consumers analytics

# `make setup PYTHON=/path/to/python` takes that one; otherwise the first of these that is new enough and can make a venv.
PYTHON ?=
PYTHONS = $(or $(PYTHON),python3.13 python3.12 python3.11 python3)

# `make faults ROUNDS=50 ROWS=1,11 SEED=7`: so many rounds of these rows, the first with this seed.
ROUNDS ?= 1
ROWS ?=
SEED ?=

# `make chaos SEED=7 MINUTES=5 NODES=3 ONLY=kill,stop`: for so long, on so many NATS nodes, these faults only.
MINUTES ?= 1
NODES ?= 1
ONLY ?=

# `make soak CALLS=20000`.
CALLS ?= 20000

# `make bench QUICK=1`.
QUICK ?=

# What `make test` leaves to `make processes`.
LONG := integration or faults or slow

# Three on two cores, at most four: a test waits for other processes for half of its time. `make test ARGS="-k takeover"` adds
# arguments, `make test JOBS=0` runs in one process.
JOBS ?= $(shell expr 1 + $$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN))
ARGS ?=
PARALLEL = --numprocesses=$(JOBS) --maxprocesses=4 --dist=worksteal

# The tests start some hundreds of processes: where the environment forbids byte code, each would compile all of it again.
export PYTHONDONTWRITEBYTECODE :=

UV_VERSION := 0.13.8

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv from the lock; the other targets do it when it is needed
	@:

demo: $(READY) ## a whole system on this machine, and a call to talk to
	@$(BIN)/unpod demo

test: $(READY) ## run the quick tests and a call through real processes, 3 min
	@$(BIN)/pytest $(PARALLEL) -m "smoke or not ($(LONG))" $(ARGS)

# Faults have bounds of time, and many processes each: two at a time, after the others.
processes: $(READY) ## run all other tests: real processes, faults, many random cases
	@$(BIN)/pytest $(PARALLEL) -m "($(LONG)) and not (smoke or faults)" $(ARGS)
	@$(BIN)/pytest --numprocesses=2 --dist=worksteal -m faults $(ARGS)

bench: $(READY) ## measure it all beside a bare socket, 12 min; QUICK=1: two minutes, ARGS=--only=turns: a part
	@$(BIN)/python -m tests.benchmarks.suite $(if $(QUICK),--quick) $(ARGS)

chaos: $(READY) ## harm real processes and links by a seed while callers talk: SEED= MINUTES= NODES=1|3 ONLY=kill,stop-bridge
	@$(BIN)/python -m tests.faults.chaos.run $(if $(SEED),--seed=$(SEED)) --minutes=$(MINUTES) --nodes=$(NODES) $(if $(ONLY),--only=$(ONLY)) $(ARGS)

soak: $(READY) ## thousands of short calls through one runner and one bridge, and what has grown: CALLS=20000
	@$(BIN)/python -m tests.faults.soak --calls=$(CALLS) $(ARGS)

faults: $(READY) ## kill real processes under 20 calls, ROUNDS times, and print what was lost
	@$(BIN)/python -m tests.faults.run --rounds=$(ROUNDS) $(if $(ROWS),--rows=$(ROWS)) $(if $(SEED),--seed=$(SEED))

docs: $(READY) ## write the pages of the reference that are made from the code
	@$(BIN)/python tests/docs/command_line.py
	@$(BIN)/python tests/docs/wire.py
	@$(BIN)/python -m tests.docs.analytics

image: ## build the image of compose/, where Docker has its base or can pull it
	docker build --file compose/Dockerfile --tag unpod:local .

lint: $(READY) ## check style and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## check types, of the pages too
	@$(BIN)/python -m tests.typing.pages build/pages
	@$(BIN)/mypy --num-workers=2 runtime bridge consumers tests examples build/pages
	@$(BIN)/basedpyright --level error

imports: $(READY) ## check that the packages import only what the floor plan allows
	@$(BIN)/lint-imports --no-logo --cache-dir $(VENV)/.import_linter_cache

superdialog: $(SUPERDIALOG)/.ready ## test superdialog's adapter, in an environment of its own (300 MB)
	@$(SUPERDIALOG)/bin/pytest tests/superdialog $(ARGS)

paths: $(READY) ## count what the hot paths do, beside what is recorded
	@$(BIN)/python -m tests.benchmarks.hot_paths

# Allowed to fail, hence the dash: make shows it, and goes on.
versions: $(READY) ## test with the oldest and the newest versions of others' packages that are allowed
	-@$(BIN)/python -m tests.versions --uv-version=$(UV_VERSION) --folder=$(VERSIONS)

check: lint types imports paths superdialog versions test processes ## everything that CI checks

lock: ## resolve the dependencies again; `make lock ARGS=--upgrade` takes newer ones
	@set -e; $(find_python); \
	tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; \
	"$$python" -m venv "$$tmp/uv"; \
	"$$tmp/uv/bin/python" -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	echo pip | "$$tmp/uv/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' $(ARGS) - --output-file $(PIP_LOCK) > /dev/null; \
	"$$tmp/uv/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' $(foreach extra,$(EXTRAS),--extra $(extra)) --group dev \
		$(ARGS) pyproject.toml --output-file $(LOCK) > /dev/null; \
	"$$tmp/uv/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --extra superdialog --extra openai --extra dev --group superdialog --group image \
		$(ARGS) pyproject.toml --output-file $(SUPERDIALOG_LOCK) > /dev/null; \
	"$$tmp/uv/bin/uv" pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --extra dev --extra fast --extra analytics --group image --constraint $(LOCK) \
		$(ARGS) pyproject.toml --output-file $(IMAGE_LOCK) > /dev/null; \
	echo "$(LOCK): $$(grep -c '==' $(LOCK)) packages"

clean: ## remove .venv, caches, and the data of local runs
	rm -rf $(VENV) $(SUPERDIALOG) $(VERSIONS) .unpod .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Sets $$python, or says in one line what is missing.
define find_python
python=; old=; bare=; \
for p in $(PYTHONS); do \
	"$$p" -c '' 2> /dev/null || continue; \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$p ($$("$$p" -V 2>&1))"; continue; }; \
	"$$p" -c 'import ensurepip, venv' 2> /dev/null || { bare=$$p; continue; }; \
	python=$$p; break; \
done; \
if [ -z "$$python" ]; then \
	if [ -n "$$bare" ]; then echo "unpod: $$bare cannot make a virtual environment; on Debian and Ubuntu: apt-get install $$(basename "$$bare")-venv" >&2; \
	else echo "unpod: needs Python 3.11 or later, found $${old:-none of: $(PYTHONS)}; say which with make PYTHON=..." >&2; fi; \
	exit 1; \
fi
endef

# Only what the locks name, by hash; then this project itself, built with the hatchling that was just installed. First a pip
# that is not as old as Python, which takes half the time. The lock is complete, so nothing is resolved, only checked. Byte
# code is made at the end, by all cores, where pip would make it with one. What a former lock named and this one does not goes.
# $(1): the environment, $(2): its lock.
define set_up
@set -e; log=$$(mktemp); trap 'rm -f "$$log"' EXIT; \
quietly() { "$$@" > "$$log" 2>&1 || { cat "$$log" >&2; echo "unpod: set-up failed in: $$*" >&2; exit 1; }; }; \
if ! $(1)/bin/python -c '' 2> /dev/null; then \
	$(find_python); \
	echo "Setting up $(1) with $$("$$python" -V 2>&1), once; this takes about half a minute"; \
	quietly "$$python" -m venv --clear $(1); \
else echo "Bringing $(1) up to date"; fi; \
pip="$(1)/bin/python -m pip --disable-pip-version-check --no-input --quiet install --no-deps --no-compile"; \
quietly $$pip --require-hashes --requirement $(PIP_LOCK); \
quietly $$pip --require-hashes --requirement $(2); \
$(1)/bin/python -m pip freeze --exclude-editable | sed 's/[ =@].*//' | tr 'A-Z_.' 'a-z--' | sort > "$$log.is"; \
sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p' $(2) $(PIP_LOCK) | tr '_.' '--' | sort -u > "$$log.shall"; \
gone=$$(comm -23 "$$log.is" "$$log.shall"); rm -f "$$log.is" "$$log.shall"; \
[ -z "$$gone" ] || quietly $(1)/bin/python -m pip uninstall --yes $$gone; \
quietly $$pip --no-build-isolation --editable .; \
quietly $(1)/bin/python -m pip check; \
$(1)/bin/python -m compileall -q -j 0 $(1)/lib > "$$log" 2>&1 || true; \
touch $(1)/.ready; \
echo "$(1) is ready"
endef

$(READY): $(PIP_LOCK) $(LOCK) pyproject.toml
	$(call set_up,$(VENV),$(LOCK))

$(SUPERDIALOG)/.ready: $(PIP_LOCK) $(SUPERDIALOG_LOCK) pyproject.toml
	$(call set_up,$(SUPERDIALOG),$(SUPERDIALOG_LOCK))
