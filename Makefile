# Two commands do everything on a fresh machine with Python 3.11, git and make:
#   make run     set up a virtual environment, install, start a node that serves on port 3331
#   make test    set up, install the test tools as well, run the tests

PYTHON ?= python3
PORT ?= 3331
SERVERS ?= servers.txt
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready

FAST_READY := build/fast/.ready

.PHONY: help run cluster demo test sim lint proto bench clean setup setup-dev

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(RUN_READY)  ## create .venv with what a node needs

setup-dev: $(DEV_READY)  ## create .venv with the tools and tests as well

# An environment is of no use once its Python has become another version or is gone, or if it is too old, and is not what
# was asked for if PYTHON names another one: it is made anew.
IS_NEW_ENOUGH := 'import sys; print("yes" if sys.version_info >= (3, 11) else "no")'
VERSION := -c 'import sys; print("python%d.%d" % sys.version_info[:2])' 2>/dev/null
ifneq ($(wildcard $(VENV)/pyvenv.cfg),)
VENV_VERSION := $(shell $(VENV)/bin/python $(VERSION))
ifeq ($(wildcard $(VENV)/lib/$(or $(VENV_VERSION),none)/site-packages),)
IS_STALE := yes
else ifneq ($(shell $(VENV)/bin/python -c $(IS_NEW_ENOUGH) 2>/dev/null),yes)
IS_STALE := yes
else ifeq ($(origin PYTHON),command line)
ifneq ($(shell $(PYTHON) $(VERSION)),$(VENV_VERSION))
IS_STALE := yes
endif
endif
endif
ifdef IS_STALE
.PHONY: $(VENV)/bin/python
$(RUN_READY) $(DEV_READY): $(VENV)/bin/python
endif

$(VENV)/bin/python:
	$(if $(filter yes,$(shell $(PYTHON) -c $(IS_NEW_ENOUGH) 2>/dev/null)),,$(error $(PYTHON) is not to be had, or too old: Python 3.11 or newer is needed (make PYTHON=...)))
	$(PYTHON) -m venv --clear $(VENV)

$(RUN_READY): requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(DEV_READY): requirements.txt requirements-dev.txt requirements-build.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(RUN_READY)

.PHONY: setup-locked lock

setup-locked: | $(VENV)/bin/python  ## create .venv with the very files that requirements.lock names, for production
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	@touch $(RUN_READY)

# For CPython on Linux; each hash is of a file of that version, so all processors and Python versions are there.
lock: | $(VENV)/bin/python  ## make requirements.lock and requirements-build.lock anew: the newest versions that the .txt files allow, with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --no-config --upgrade --python-platform linux \
		--python-version 3.11 --generate-hashes --no-emit-index-url --output-file requirements.lock requirements.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/uv pip compile --quiet --no-config --upgrade --python-platform linux \
		--python-version 3.11 --generate-hashes --no-emit-index-url --output-file requirements-build.lock requirements-build.txt

# Without a compiler, or if it fails, that is said in one line and tried again next time: a node runs all the same.
$(FAST_READY): $(wildcard app/fast/*.pyx app/fast/*.pxd) tools/build_fast.py requirements-build.txt $(RUN_READY)
	@if command -v cc >/dev/null; then \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-build.txt 2>/dev/null || true; fi
	@if $(BIN)/python tools/build_fast.py --must; then mkdir -p $(@D) && touch $@; fi

.PHONY: fast sanitize

fast: $(FAST_READY)  ## compile app/fast, where there is a C compiler

SANITIZED := tests/fast tests/front/test_batch.py

sanitize: $(DEV_READY) $(FAST_READY)  ## the compiled core's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/python -m tests.fast.sanitized $(SANITIZED) $(ARGS)

run: $(RUN_READY) $(FAST_READY)  ## start a node: make run [PORT=3331] [SERVERS=servers.txt] [ARGS="--policy noeviction"]
	exec $(BIN)/python app/main.py $(PORT) $(SERVERS) $(ARGS)

N ?= 5

cluster: $(RUN_READY) $(FAST_READY)  ## start N nodes on this machine, until Ctrl-C: make cluster [N=5] [PORT=3331] [ARGS="--replicas 2"]
	exec $(BIN)/python tools/cluster.py $(N) --port $(PORT) -- $(ARGS)

HTTP_PORT ?= 9331

demo: $(DEV_READY) $(FAST_READY)  ## three nodes with status pages under a gentle load: make demo [PORT=3331] [HTTP_PORT=9331] [ARGS="--seconds 60"]
	exec $(BIN)/python tools/demo.py --port $(PORT) --http-port $(HTTP_PORT) $(ARGS)

test: $(DEV_READY) $(FAST_READY)  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

SEEDS ?= 100

sim: $(DEV_READY)  ## simulate clusters under faults: make sim [SEEDS=100] [ARGS="--start 7"]
	$(BIN)/python -m tests.sim --seeds $(SEEDS) $(ARGS)

.PHONY: mutants
SEED ?=
COUNT ?= 120
PATHS ?= app

mutants: $(DEV_READY)  ## would the tests notice a change? make mutants [SEED=n] [COUNT=120] [PATHS="app/peers app/client"]
	$(BIN)/python -m tests.mutants $(if $(SEED),--seed $(SEED)) --count $(COUNT) $(ARGS) $(PATHS)

.PHONY: fuzz
fuzz: $(DEV_READY) $(FAST_READY)  ## inputs that nobody thought of, guided by coverage: make fuzz [MINUTES=10] [ARGS="--target http --keep"]
	$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

.PHONY: lab
MINUTES ?= 1

lab: $(DEV_READY)  ## real nodes on a network that breaks, as root: make lab [MINUTES=10] [SEED=n]
	$(BIN)/python -m tests.lab --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(DEV_READY)  ## ruff, and mypy in strict mode over app/ and tools/
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Each file is known as kvcluster/NAME.proto, so that it can live in one process with others of that name.
proto: $(DEV_READY)  ## regenerate proto_gen/ from proto/
	mkdir -p build/proto
	$(BIN)/python -m grpc_tools.protoc -Ikvcluster=proto --python_out=build/proto --pyi_out=build/proto proto/*.proto
	cp build/proto/kvcluster/* proto_gen/

bench: $(DEV_READY) $(FAST_READY)  ## measure everything in docs/performance.md (10 minutes): make bench [ARGS="--parts costs --against ../other"]
	$(BIN)/python tools/build_fast.py --folder tools/bench --must
	$(BIN)/python -m tools.bench.suite $(ARGS)

.PHONY: dist image

dist: $(DEV_READY)  ## the packages: a source archive, and of it a wheel for this Python, into dist/
	$(BIN)/python -c 'from setuptools import build_meta as made; made.build_sdist("dist"); made.build_wheel("dist")' >/dev/null
	@ls dist

image:  ## the container image kvcluster, by docker
	docker build -t kvcluster --build-arg VERSION="$$(sed -n 's/^VERSION.*= "\(.*\)".*/\1/p' app/version.py)" \
		--build-arg REVISION="$$(git rev-parse HEAD)" .

.PHONY: test-image
test-image: $(DEV_READY)  ## build the image with buildah, and run containers of it: Debian's buildah, mmdebstrap and runc, root
	$(BIN)/python -m pytest -rs tests/image $(ARGS)

.PHONY: bench-compare
bench-compare: $(DEV_READY)  ## ratios of two results of make bench: make bench-compare A=old.json B=new.json [ARGS="--threshold 5"]
	$(BIN)/python -m tools.bench.compare $(ARGS) $(A) $(B)

clean:  ## remove the virtual environment and what tools leave behind
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f app/fast/*.so tools/bench/*.so app/fast/built.txt
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
