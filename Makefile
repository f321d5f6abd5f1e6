# The only spelling of every task: people, hooks and .ci/run all call these targets.
#
# The environment lives in .venv. Each step leaves a stamp in .venv/.stamps and is redone only when what it was made from
# changes, so a second `make run` or `make test` installs nothing, builds nothing and needs no network.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3.11
RUST_MINIMUM := 1.88.0
CARGO_DENY_VERSION := 0.20.2
FILEBEAT_VERSION := v7.17.29

VENV := .venv
STAMPS := $(VENV)/.stamps
TOOLS := .tools
# What takes minutes to build and belongs to no checkout.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/longwave
BIN := $(VENV)/bin
PY := $(BIN)/python
CARGO := cargo
# For programs that call their siblings by name: maturin's build hook, protoc's plugins.
WITH_BIN := PATH="$(CURDIR)/$(BIN):$$PATH"
# Cargo shares the processors by itself: the job server of a make above does not reach it through pip.
WITHOUT_JOBS := env -u MAKEFLAGS -u MFLAGS
CARGO_FLAGS := --locked --offline --manifest-path rust_core/Cargo.toml
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --no-input
# Versions and digests come from the lock alone; nothing is built from source, so no compiler runs for a dependency.
PIP_INSTALL_LOCK := $(PIP_INSTALL) --no-deps --require-hashes --only-binary :all: --requirement
# Our own two distributions: build backends are already in .venv, so neither isolation nor an index is wanted.
PIP_INSTALL_LOCAL := $(PIP_INSTALL) --no-deps --no-build-isolation --no-index --editable

RUN_COMMAND ?= $(BIN)/longwave demo
BENCH_COMMAND ?= $(PY) -m loadtest.benchmarks
PYTEST_ARGS ?=
# Files of tests at once. More than the two cores: most of them wait for a process, a server or a clock.
PYTEST_WORKERS ?= 3
HOURS ?= 1
SECONDS_EACH ?= 60
MINUTES ?= 1
# Of `make load` and `make openloop`: messages a second and seconds, or how much of a day and how fast.
SHAPE ?= day
FACTOR ?= 60
FIRST_HOUR ?= 0
HOURS_OF_DAY ?= 24
RATE ?= 100
SECONDS ?= 60
# Of `make autoscale`.
HPA ?= tests/autoscale/golden/hpas/guide.yaml
RESULTS ?= loadtest/results/2026-11-28-autoscale

PROTOS = $(sort $(wildcard proto/longwave/v1/*.proto))
RUST_SOURCES = $(shell find rust_core -path rust_core/target -prune -o -name '*.rs' -print)
PYTHON_FOLDERS = $(wildcard engine server loadtest proto/longwave tests)
DEPLOY_SCRIPTS = deploy/helm/generate.py deploy/kustomize/render.py deploy/schemas/convert.py \
	deploy/grafana/generate.py deploy/prometheus/generate.py
SHELL_SCRIPTS = $(shell git ls-files --cached --others --exclude-standard '*.sh' .ci)
DOCKERFILES = $(wildcard deploy/docker/Dockerfile*)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYO3_PYTHON := $(CURDIR)/$(PY)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
# Tests start hundreds of processes; each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup docs dashboards chart-docs chart-schemas promises generate verify-generated build run test test-rust test-python test-mysql9 interop torture cluster \
	fuzz bench bench-compare bench-instructions flames peers overload openloop load load-ceiling autoscale autoscale-golden \
	image-proof coverage audit \
	lint lint-python lint-rust lint-proto lint-deploy lint-chart lint-workflows lint-compose lint-filebeat lint-shell fmt lock clean FORCE

help: ## Print this list.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---------------------------------------------------------------------------------------------------------- environment

setup: $(STAMPS)/core ## Make .venv: locked packages, the client and the application (Rust included) as editable installs.

# The path is kept in the stamp: scripts in a virtual environment name their interpreter, so a moved checkout starts anew.
$(STAMPS)/venv: $(if $(filter $(CURDIR),$(file <$(STAMPS)/venv)),,FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	  echo "make: Python 3.11 is missing; on Debian 12: apt-get install python3.11 python3.11-venv (or pass PYTHON=/path/to/python3.11)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: Python 3.11 has no venv module; on Debian 12: apt-get install python3.11-venv" >&2; exit 1; }
	@echo "setup: making $(VENV)"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS)
	@printf '%s\n' '$(CURDIR)' >$@

$(STAMPS)/dev: requirements/dev.lock $(STAMPS)/toolchain
	@echo "setup: installing $<"
	@$(PIP_INSTALL_LOCK) $<
	@touch $@

$(STAMPS)/client: proto/pyproject.toml $(STAMPS)/dev
	@echo "setup: installing the client (longwave) from proto/"
	@$(PIP_INSTALL_LOCAL) ./proto
	@touch $@

$(STAMPS)/toolchain: $(STAMPS)/venv
	@command -v $(CARGO) >/dev/null || { \
	  echo "make: cargo is missing: install Rust $(RUST_MINIMUM) or newer (https://rustup.rs; Debian 12's own package is too old)" >&2; exit 1; }
	@printf '%s\n%s\n' '$(RUST_MINIMUM)' "$$($(CARGO) --version | cut -d' ' -f2)" | sort --check=quiet --version-sort || { \
	  echo "make: $$($(CARGO) --version) is too old: Rust $(RUST_MINIMUM) or newer is needed (rustup update stable)" >&2; exit 1; }
	@command -v cc >/dev/null || { \
	  echo "make: a C linker (cc) is missing; on Debian 12: apt-get install gcc libc6-dev" >&2; exit 1; }
	@touch $@

$(STAMPS)/crates: rust_core/Cargo.toml rust_core/Cargo.lock $(STAMPS)/toolchain
	@echo "setup: fetching crates of rust_core/Cargo.lock"
	@$(CARGO) fetch --locked --manifest-path rust_core/Cargo.toml
	@touch $@

# A missing extension rebuilds whatever the stamp says.
$(STAMPS)/core: pyproject.toml rust_core/Cargo.toml rust_core/Cargo.lock $(RUST_SOURCES) \
		$(STAMPS)/client $(STAMPS)/crates $(if $(wildcard engine/_core.*.so),,FORCE)
	@echo "setup: building engine._core and installing the application (longwave-engine)"
	@$(WITHOUT_JOBS) $(WITH_BIN) CARGO_NET_OFFLINE=true MATURIN_PEP517_ARGS='--locked --offline' $(PIP_INSTALL_LOCAL) .
	@touch $@

# Guides the fuzzing of Python; beside the environment, since nothing else wants it.
$(STAMPS)/fuzz: requirements/fuzz.lock $(STAMPS)/dev
	@echo "fuzz: installing atheris into $(TOOLS)/atheris"
	@rm -rf $(TOOLS)/atheris
	@$(PIP_INSTALL) --no-deps --require-hashes --only-binary :all: --target $(TOOLS)/atheris --requirement $<
	@touch $@

# An environment of its own in .tools, from a lock file of its own.
define TOOL_VENV
$(STAMPS)/$(1): requirements/$(1).lock $(STAMPS)/dev
	@echo "making $(TOOLS)/$(1)"
	@rm -rf $(TOOLS)/$(1)
	@$(PYTHON) -m venv $(TOOLS)/$(1)
	@env -u VIRTUAL_ENV $(TOOLS)/$(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
	  --require-hashes --only-binary :all: --requirement $$<
	@touch $$@
endef

# What the home-made pipeline is made of: the product depends on none of it.
$(eval $(call TOOL_VENV,peers))
# What asks for known vulnerabilities: it needs the network, so no other target wants it.
$(eval $(call TOOL_VENV,audit))
# Checks what the chart renders; it wants hundreds of packages, of which the lint environment shares few.
$(eval $(call TOOL_VENV,checkov))

$(STAMPS)/lint: requirements/lint.lock $(STAMPS)/dev
	@echo "lint: installing $<"
	@$(PIP_INSTALL_LOCK) $<
	@rm -rf .mypy_cache  # mypy does not notice stubs that arrive later
	@touch $@

# Built from source (a few minutes, once); unoptimised, because our crate graph is checked in a second either way.
$(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION): | $(STAMPS)/toolchain
	@mkdir -p $(CACHE) $(TOOLS)/bin
	@rm -f $(TOOLS)/bin/cargo-deny-*
	@[ -x $(CACHE)/$(@F) ] || { \
	  echo "lint: building cargo-deny $(CARGO_DENY_VERSION) into $(CACHE)"; \
	  CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --quiet --locked --debug --root $(TOOLS) --force cargo-deny@$(CARGO_DENY_VERSION); \
	  mv $(TOOLS)/bin/cargo-deny $(CACHE)/$(@F); }
	@cp $(CACHE)/$(@F) $@

# One resolution (lint.lock holds everything); the other two are subsets of it at the same versions.
LOCK_COMPILE = $(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-package longwave $(if $(UPGRADE),--upgrade) pyproject.toml
LOCK_DEV_GROUPS := --all-extras --group build --group generate --group test

lock: $(STAMPS)/lint ## Write the lock files anew (UPGRADE=1 takes the newest version of everything).
	@$(LOCK_COMPILE) $(LOCK_DEV_GROUPS) --group lint --output-file requirements/lint.lock
	@$(LOCK_COMPILE) $(LOCK_DEV_GROUPS) --constraint requirements/lint.lock --output-file requirements/dev.lock
	@$(LOCK_COMPILE) --extra mysql --extra redis --extra traces --constraint requirements/lint.lock --output-file requirements/run.lock
	@$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  $(if $(UPGRADE),--upgrade) requirements/peers.in --output-file requirements/peers.lock
	@$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  $(if $(UPGRADE),--upgrade) requirements/audit.in --output-file requirements/audit.lock
	@$(BIN)/uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  $(if $(UPGRADE),--upgrade) requirements/checkov.in --output-file requirements/checkov.lock
	@$(CARGO) update $(if $(UPGRADE),,--workspace) --manifest-path rust_core/Cargo.toml

# ----------------------------------------------------------------------------------------------------------- build, run

build: setup ## Build the application wheel (release) and the client wheel into dist/.
	@CARGO_NET_OFFLINE=true $(BIN)/maturin build --release --locked --offline --interpreter $(PY) --out dist
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist ./proto
	@ls -1 dist

run: setup ## An engine with the embedded store, a simulated carrier beside it, and a first batch of messages delivered.
	@exec $(RUN_COMMAND)

# ---------------------------------------------------------------------------------------------------------------- contract

docs: setup ## Write the generated pages of docs/ (metrics, settings, verdicts, states).
	@$(PY) docs/generate.py

dashboards: setup ## Write Grafana's dashboards and the PrometheusRule from their sources in deploy/.
	@$(PY) deploy/grafana/generate.py
	@$(PY) deploy/prometheus/generate.py

chart-docs: setup $(TOOLS)/bin/helm ## Write what is made from the chart: its README and schema of settings, the Kustomize tree's share.
	@PYTHONPATH="$(CURDIR)" $(PY) deploy/helm/generate.py
	@$(PY) deploy/kustomize/render.py $(TOOLS)/bin/helm

chart-schemas: setup ## Write deploy/schemas anew from the projects' own modules (needs Go and its proxy).
	@$(PY) deploy/schemas/convert.py

promises: setup servers ## Write what the newest revision of the MySQL store promises (beside it, committed).
	@$(PY) -m tests.servers.promises

# $(1): folder the modules are written below. Service stubs only for files that declare a service.
define GENERATE
	$(WITH_BIN) $(PY) -m grpc_tools.protoc --proto_path=proto --python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS)
	services="$$(grep --files-with-matches '^service ' $(PROTOS) || true)"; \
	[ -z "$$services" ] || $(WITH_BIN) \
	  $(PY) -m grpc_tools.protoc --proto_path=proto --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $$services
endef

generate: $(STAMPS)/dev ## Write proto/longwave/v1/*_pb2* from the .proto files (committed).
	@rm -f proto/longwave/v1/*_pb2*
	@$(call GENERATE,proto)

verify-generated: $(STAMPS)/dev ## Fail when the committed modules differ from what the .proto files give.
	@fresh="$$(mktemp -d)"; trap 'rm -rf "$$fresh"' EXIT; \
	mkdir -p "$$fresh/committed" "$$fresh/made"; \
	cp proto/longwave/v1/*_pb2* "$$fresh/committed/"; \
	$(MAKE) generate-into INTO="$$fresh/made"; \
	diff --unified --recursive "$$fresh/committed" "$$fresh/made/longwave/v1" || { \
	  echo "make: generated code is stale: run make generate" >&2; exit 1; }

.PHONY: generate-into
generate-into: $(STAMPS)/dev
	@$(call GENERATE,$(INTO))

# -------------------------------------------------------------------------------------------------------------------- test

# Cargo builds for its tests while packages are fetched and the extension is built.
test: $(STAMPS)/toolchain ## Set up, then every test: cargo test, pytest (PYTEST_ARGS="-k name" narrows).
	@$(MAKE) --jobs=2 --output-sync=line setup test-rust
	@$(MAKE) test-python

test-rust: $(STAMPS)/crates
	@$(WITHOUT_JOBS) $(CARGO) test $(CARGO_FLAGS) --quiet

test-python: setup servers
	@GRPC_VERBOSITY=ERROR $(PY) -m pytest --numprocesses $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# The store's tests against a real MySQL 9, fetched once into .tools (58 MB); optional, no other target wants it.
test-mysql9: setup servers ## The store against MySQL 9, unpacked into .tools at the first run (Debian's archive).
	@tests/servers/fetch_mysql9.sh $(TOOLS)/mysql9
	@$(PY) -m pytest --mysql=9 $(or $(PYTEST_ARGS),tests/stores tests/conformance tests/corridor/test_server_faults.py)

# The only tests that need Go, Node and Java, so no other target wants them.
interop: setup $(addprefix $(TOOLS)/interop/,go/client node/.made java/.made) $(TOOLS)/bin/grpcurl $(TOOLS)/bin/ghz ## Official clients against both gRPC edges (needs Go, Node, Java; built into .tools).
	@$(PY) -m pytest --interop $(or $(PYTEST_ARGS),tests/interop)

INTEROP := tests/interop

$(TOOLS)/interop/go/client: $(addprefix $(INTEROP)/go/,main.go go.mod go.sum)
	@command -v go >/dev/null || { echo "make: go is missing: install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
	@echo "interop: building the Go client"
	@mkdir -p $(@D)
	@cd $(INTEROP)/go && go vet ./... && go build -o $(CURDIR)/$@ .

$(TOOLS)/interop/node/.made: $(addprefix $(INTEROP)/node/,client.mjs package.json package-lock.json)
	@command -v npm >/dev/null || { echo "make: node and npm are missing: install Node 20 or newer (https://nodejs.org)" >&2; exit 1; }
	@echo "interop: installing the Node client"
	@mkdir -p $(@D)
	@cp $^ $(@D)/
	@npm ci --prefix $(@D) --silent --no-audit --no-fund --ignore-scripts
	@touch $@

$(TOOLS)/interop/java/.made: $(addprefix $(INTEROP)/java/,Client.java pom.xml)
	@command -v mvn >/dev/null && command -v javac >/dev/null || { \
	  echo "make: Java or Maven is missing; on Debian 12: apt-get install openjdk-17-jdk-headless maven" >&2; exit 1; }
	@echo "interop: building the Java client"
	@rm -rf $(@D)
	@mvn --quiet --batch-mode --file $(INTEROP)/java/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(@D)/lib
	@javac -Xlint:all -Werror -cp '$(@D)/lib/*' -d $(@D)/classes $<
	@touch $@

# Built from source (a minute or two each, once); Go checks what it fetches against its own log of checksums.
define GO_TOOL
$(TOOLS)/bin/$(1): $(CACHE)/$(1)-$(3)
	@mkdir -p $$(@D)
	@cp $$< $$@

$(CACHE)/$(1)-$(3):
	@command -v go >/dev/null || { echo "make: go is missing: install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
	@mkdir -p $$(@D)
	@echo "building $(1) $(3) into $(CACHE)"
	@folder="$$$$(mktemp -d)"; trap 'rm -rf "$$$$folder"' EXIT; \
	  GOTOOLCHAIN=local GOBIN="$$$$folder" go install $(2)@$(3); mv "$$$$folder"/* $$@
endef

$(eval $(call GO_TOOL,grpcurl,github.com/fullstorydev/grpcurl/cmd/grpcurl,v1.9.4))
$(eval $(call GO_TOOL,ghz,github.com/bojand/ghz/cmd/ghz,v0.121.0))
$(eval $(call GO_TOOL,actionlint,github.com/rhysd/actionlint/cmd/actionlint,v1.7.12))
$(eval $(call GO_TOOL,helm,helm.sh/helm/v4/cmd/helm,v4.3.1))
$(eval $(call GO_TOOL,kustomize,sigs.k8s.io/kustomize/kustomize/v5,v5.8.1))
$(eval $(call GO_TOOL,kubeconform,github.com/yannh/kubeconform/cmd/kubeconform,v0.7.0))
$(eval $(call GO_TOOL,kube-score,github.com/zegl/kube-score/cmd/kube-score,v1.20.0))

# compose's own loader, without Docker.
$(TOOLS)/bin/compose-check: $(addprefix tests/image/compose/,main.go go.mod go.sum)
	@command -v go >/dev/null || { echo "make: go is missing: install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
	@echo "lint: building compose's loader"
	@mkdir -p $(@D)
	@cd tests/image/compose && go vet ./... && GOTOOLCHAIN=local go build -o $(CURDIR)/$@ .

# Nothing to do, and no network, when they are there.
.PHONY: servers
servers:
	@tests/servers/install.sh

coverage: setup servers ## The Python tests with what they reach of the code, in processes of their own, too: var/coverage.
	@rm -rf var/coverage
	@mkdir -p var/coverage
	@GRPC_VERBOSITY=ERROR COVERAGE_FILE=$(CURDIR)/var/coverage/data $(PY) -m coverage run -m pytest --numprocesses $(PYTEST_WORKERS) \
	  --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
	@$(PY) -m coverage combine --quiet --data-file=var/coverage/data
	@$(PY) -m coverage xml --quiet --data-file=var/coverage/data -o var/coverage/coverage.xml
	@$(PY) -m coverage report --data-file=var/coverage/data --skip-covered --format=total

audit: $(STAMPS)/audit $(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION) ## Known vulnerabilities of what is locked, Python and Rust (needs the network, GitHub for Rust's).
	@$(TOOLS)/audit/bin/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement requirements/run.lock
	@$(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION) --locked --manifest-path rust_core/Cargo.toml --all-features check advisories

image-proof: setup ## The Dockerfile carried out in clean roots, its engine started and asked there (root, debootstrap, network; minutes).
	@exec $(PY) -m tests.proof.image --folder var/image-proof

torture: setup ## Kills, power cuts and disk faults for HOURS=n, counted in loadtest/results/ (root: it mounts loop files).
	@exec $(PY) -m tests.proof.torture --hours $(HOURS)

cluster: setup ## Nodes over one MariaDB, killed, stopped, frozen and added at random for MINUTES=n; a report in var/cluster.
	@exec $(PY) -m tests.proof.cluster --minutes $(MINUTES)

fuzz: setup $(STAMPS)/fuzz ## Fuzz every target for SECONDS_EACH=n (needs g++): core, seam, live ports; keeps the counts.
	@rust_core/fuzz/run.sh $(SECONDS_EACH)
	@mkdir -p loadtest/results/$$(date -u +%F)-fuzz
	@PYTHONPATH="$(CURDIR)/$(TOOLS)/atheris:$(CURDIR):$(CURDIR)/proto" $(PY) -m tests.proof.fuzz --seconds $(SECONDS_EACH) \
	  --file loadtest/results/$$(date -u +%F)-fuzz/seam.json

bench: setup ## Measure on this machine; results go to loadtest/results/.
	@$(BENCH_COMMAND)

bench-compare: setup ## What moved beyond its noise between two results folders: A=folder B=folder.
	@$(PY) -m loadtest.benchmarks.compare "$(A)" "$(B)"

bench-instructions: setup ## Instructions of the core an operation (callgrind) beside those accepted; ACCEPT=1 accepts.
	@$(PY) -m loadtest.benchmarks.instructions $(if $(ACCEPT),--accept)

flames: setup ## Where an engine's processor time goes: stages and flame graphs, into var/flames (py-spy, h2load).
	@$(PY) -m loadtest.flames

peers: setup servers $(STAMPS)/peers ## Longwave beside Kannel (installed by root) and a home-made pipeline: some 10 minutes; ARGS="--quick".
	@loadtest/peers/install_kannel.sh
	@$(PY) -m loadtest.peers $(ARGS)

overload: setup ## Offer up to five times what the engine stores, with shedding and without; draws the curve into var/overload.
	@$(PY) -m loadtest.overload --results var/overload

openloop: setup ## Calls at fixed times by two processes: RATE=n SECONDS=n, ARGS="--kind stream" or "--knee 1000"; var/openloop.
	@$(PY) -m loadtest.openloop --rate $(RATE) --seconds $(SECONDS) --results var/openloop $(ARGS)

load: setup ## Load by Locust: SHAPE=day|steady|soak|spike|ramp, with a verdict; reports in var/load (docs/operations/LOAD.md).
	@$(PY) -m loadtest.locust --results var/load --shape $(SHAPE) --factor $(FACTOR) --first-hour $(FIRST_HOUR) \
	  --hours $(HOURS_OF_DAY) --rate $(RATE) --seconds $(SECONDS) $(ARGS)

autoscale: setup ## Replay a recorded spike and day to an autoscaler: HPA=file, RESULTS=folder; ARGS="--name NAME" of several in it.
	@$(PY) -m loadtest.autoscale replay --results $(RESULTS) --hpa $(HPA) $(ARGS)

# No other target needs Go for this: what it writes is committed, and compared by tests/autoscale.
autoscale-golden: ## Decisions of Kubernetes' own HPA controller, and queries of prometheus-adapter's own code (needs Go).
	@tests/autoscale/golden/generate.sh
	@tests/autoscale/golden/adapter.sh

load-ceiling: setup ## What Locust itself reaches, against a server that only echoes; at a rate: ARGS="--ceiling-rate 1000".
	@$(PY) -m loadtest.locust --ceiling $(ARGS)

# -------------------------------------------------------------------------------------------------------------------- lint

lint: lint-python lint-rust lint-proto lint-deploy lint-shell ## Every check that is not a test (installs its tools at first).

lint-python: setup $(STAMPS)/lint
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy $(PYTHON_FOLDERS) docs/generate.py
	@for script in $(DEPLOY_SCRIPTS); do $(BIN)/mypy "$$script"; done
	@$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml engine._core

lint-rust: setup $(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION)
	@$(CARGO) fmt --manifest-path rust_core/Cargo.toml --check
	@$(CARGO) clippy $(CARGO_FLAGS) --quiet --all-targets -- --deny warnings
	@$(CARGO) clippy $(CARGO_FLAGS) --quiet --features python -- --deny warnings
	@$(TOOLS)/bin/cargo-deny-$(CARGO_DENY_VERSION) $(CARGO_FLAGS) --all-features check --hide-inclusion-graph bans licenses sources
	@echo "cargo deny: advisories: not checked (the advisory database is not reachable from every machine)"

lint-proto: $(STAMPS)/lint
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code

lint-deploy: $(STAMPS)/lint lint-chart lint-workflows lint-compose lint-filebeat
	@$(BIN)/hadolint $(DOCKERFILES)
	@tests/image/planted.sh $(TOOLS)/bin $(BIN)

# Shell in workflows is checked by the shellcheck of this environment; zizmor knows what makes a workflow unsafe.
lint-workflows: $(STAMPS)/lint $(TOOLS)/bin/actionlint
	@$(TOOLS)/bin/actionlint -shellcheck $(BIN)/shellcheck -pyflakes ''
	@$(BIN)/zizmor --offline --no-progress --quiet --persona pedantic .github/workflows

lint-compose: $(TOOLS)/bin/compose-check
	@$(TOOLS)/bin/compose-check deploy/docker/compose.yaml

# Renders every environment and variant, and runs all that judges it; the tests plant errors, too.
lint-chart: setup $(STAMPS)/checkov $(addprefix $(TOOLS)/bin/,helm kustomize kubeconform kube-score admission)
	@$(PY) -m pytest --deploy --quiet --no-header --numprocesses 2 --dist loadfile $(or $(PYTEST_ARGS),tests/deploy)

# Kubernetes' own judgement, as a program: minutes at first, seconds once Go has its packages.
ADMISSION := tests/deploy/admission
$(TOOLS)/bin/admission: $(addprefix $(ADMISSION)/,main.go go.mod go.sum)
	@command -v go >/dev/null || { echo "make: go is missing: install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
	@echo "lint: building Kubernetes' judgement of objects"
	@mkdir -p $(@D)
	@cd $(ADMISSION) && GOTOOLCHAIN=local go vet . && GOTOOLCHAIN=local go build -o $(CURDIR)/$@ .

lint-filebeat: setup $(TOOLS)/bin/filebeat ## A real Filebeat reads our log lines by the example of deploy/filebeat (needs Go once).
	@$(PY) -m tests.traces.check_filebeat $(TOOLS)/bin/filebeat

$(TOOLS)/bin/filebeat: $(CACHE)/filebeat-$(FILEBEAT_VERSION)
	@mkdir -p $(@D)
	@cp $< $@

# The newest whose module can be fetched by a version. It exchanges some of its dependencies, which only counts for what is
# built inside of it; so it is unpacked, and no `go install`.
$(CACHE)/filebeat-$(FILEBEAT_VERSION):
	@command -v go >/dev/null || { echo "make: go is missing: install Go 1.26 or newer (https://go.dev/dl)" >&2; exit 1; }
	@echo "lint: building Filebeat $(FILEBEAT_VERSION) into $(CACHE) (some minutes, once)"
	@mkdir -p $(@D)
	@made="$$(mktemp -d)"; trap 'rm -rf "$$made"' EXIT; cd "$$made"; \
	module="$$(GOFLAGS=-mod=mod go mod download -json github.com/elastic/beats/v7@$(FILEBEAT_VERSION) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')"; \
	cp -R "$$module" beats; chmod -R u+w beats; cd beats; \
	GOTOOLCHAIN=local go build -ldflags=-s -o "$$made/filebeat" ./filebeat; mv "$$made/filebeat" $@

lint-shell: $(STAMPS)/lint
	@$(BIN)/shellcheck $(SHELL_SCRIPTS)

fmt: $(STAMPS)/lint ## Rewrite Python, Rust and proto files in the house format.
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format --quiet
	@$(CARGO) fmt --manifest-path rust_core/Cargo.toml
	@$(BIN)/buf format --write

clean: ## Remove everything that was built or installed here, .venv included (lint tools built from source stay in .tools).
	@rm -rf $(VENV) dist rust_core/target engine/_core.*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find engine server loadtest proto tests -name __pycache__ -type d -prune -exec rm -rf {} +
