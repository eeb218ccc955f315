# `make help` lists what there is to do here. What is missing is installed by apt (scripts/install).
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= target
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
sidekick := $(CARGO_TARGET_DIR)/release/sidekick
worker := $(CARGO_TARGET_DIR)/release/worker

# The tests with real parts start Docker Engines, which takes root: cargo runs the tests, and only those, with sudo.
cargo_as_root := cargo $(if $(filter-out 0,$(shell id -u)),--config 'target."cfg(unix)".runner="sudo --preserve-env"')
as_root := $(if $(filter-out 0,$(shell id -u)),sudo --preserve-env)

# Run without cargo: cargo would not wait for its end after a Ctrl-C.
cluster_program = $(as_root) "$$(cargo test --locked --features real --test cluster --no-run \
	--message-format=json-render-diagnostics | sed -n 's/.*"executable":"\([^"]*\/cluster-[^"]*\)".*/\1/p')"

.PHONY: build demo picture quick test matrix check deny simulate fuzz soak units image cluster cluster-test chaos bench clean help cargo
.NOTPARALLEL:

build: cargo ## the release binary, target/release/sidekick
	@scripts/install cc protoc
	@cargo build --release --locked

# rustc alone: with cargo the tests' dependencies would be built too. Static: the cluster's machines have a libc of theirs.
$(worker): examples/worker.rs | cargo
	@scripts/install cc
	@mkdir -p $(@D)
	@rustc --edition 2024 -O -C target-feature=+crt-static -o $@ $<

demo: build $(worker) ## the whole loop on real parts, one Redis killed; until Ctrl-C, or for DEMO_SECONDS=N
	@scripts/install docker dockerd ip etcd etcdctl redis-server redis-cli haproxy socat
	@exec demo/demo.sh $(sidekick) $(worker)

picture: build $(worker) ## docs/demo.svg, from a run of the demo, and docs/page.png, from the test of the agent's page
	@scripts/install docker dockerd ip etcd etcdctl redis-server redis-cli haproxy socat chromium
	demo/picture.sh $(sidekick) $(worker) >$(CARGO_TARGET_DIR)/demo.svg
	SIDEKICK_PAGE_PICTURE=$(abspath $(CARGO_TARGET_DIR))/page.png $(cargo_as_root) test --locked --features real --test agent a_picture_of_the_page
	mv $(CARGO_TARGET_DIR)/demo.svg $(CARGO_TARGET_DIR)/page.png docs/

# What needs no server, and of the tests with real parts those that a change breaks first and that take seconds. One set of features
# for both, so that nothing is compiled twice. All the rest is for `make test`.
offline_tests = $(basename $(notdir $(wildcard tests/*.rs))) cli fuzz house chaos_checker
quick_tests = lifecycle:: ownership:: explain:: address:: both_ways:: reading::

quick: check ## formatting, clippy, and the tests that take seconds: under 3 minutes on 2 cores, once all is built
	@scripts/install docker dockerd ip etcd etcdctl redis-server redis-cli haproxy
	SIDEKICK_SIM_SEEDS=200 cargo test --locked --features real --lib --bins $(addprefix --test ,$(offline_tests))
	RUST_TEST_THREADS=8 $(cargo_as_root) test --locked --features real --test real --test agent -- $(quick_tests)

test: check units build $(worker) ## everything that .ci/run runs: needs root or sudo, some 50 minutes on 2 cores
	@scripts/install docker dockerd docker-compose ip etcd etcdctl redis-server redis-cli haproxy prometheus socat debootstrap promtool chromium faketime
	@rm -f $(CARGO_TARGET_DIR)/tmp/promises
	SIDEKICK_SIM_SEEDS=5000 RUST_TEST_THREADS=8 $(cargo_as_root) test --locked --features real
	RUST_TEST_THREADS=8 tests/matrix.sh $(cargo_as_root) -- newest
	DEMO_SECONDS=0 demo/demo.sh $(sidekick) $(worker)
	@# A cluster that waits for a TTL leaves a core for the compiler in the image.
	@$(MAKE) --no-print-directory image & other=$$!; \
		$(MAKE) --no-print-directory cluster-test; status=$$?; wait $$other && exit $$status
	@$(MAKE) --no-print-directory chaos
	@sort -V $(CARGO_TARGET_DIR)/tmp/promises

matrix: cargo ## tests/agent and tests/real on every version in reach, some 40 minutes; ROWS="haproxy-3.0 podman-4.3": those alone
	@scripts/install cc protoc docker dockerd ip etcd etcdctl redis-server redis-cli haproxy prometheus debootstrap promtool chromium
	RUST_TEST_THREADS=4 tests/matrix.sh $(cargo_as_root) -- $(or $(ROWS),all)

chaos: cargo ## everything real, and everything wrong by a seed, for MINUTES=3; SEED=N plays that one again
	@scripts/install cc protoc docker dockerd ip etcd etcdctl redis-server redis-cli haproxy faketime
	SEED=$(SEED) MINUTES=$(MINUTES) $(cargo_as_root) test --locked --features real --test chaos

bench: cargo ## the numbers, beside what sidekick replaces and the floor (BENCH=announce, all or agent: one of them)
	@scripts/install cc protoc docker dockerd ip etcd etcdctl redis-server redis-cli haproxy
	$(cargo_as_root) bench --locked --features real $(if $(BENCH),--bench $(BENCH),--bench announce --bench all --bench agent)

check: cargo ## formatting, and clippy with warnings denied
	@scripts/install cc protoc
	cargo fmt --all --check
	cargo clippy --locked --all-targets --all-features -- -D warnings
	cargo clippy --locked --all-features --test chaos --test cluster --test soak -- -D warnings # of which `cargo test` knows nothing

deny: cargo ## cargo-deny: licences, duplicates, sources, advisories; what is missing of it takes minutes to build
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

simulate: SEEDS = 100000
simulate: cargo ## registrar and agent in virtual time, SEEDS=100000 of each, some minutes; SEED=N plays that one alone
	@scripts/install cc protoc
	SIDEKICK_SIM_SEEDS=$(SEEDS) $(if $(SEED),SIDEKICK_SIM_SEED=$(SEED)) cargo test --locked --lib testing::announce -- --nocapture
	SIDEKICK_SIM_SEEDS=$(SEEDS) $(if $(SEED),SIDEKICK_SIM_SEED=$(SEED)) cargo test --locked --lib whatever_ -- --nocapture

fuzz: export SIDEKICK_FUZZ_CASES = $(CASES)
fuzz: export SIDEKICK_FUZZ_SEED = $(SEED)
fuzz: CASES = 200000
fuzz: SEED = 2
fuzz: MINUTES = 1
fuzz: cargo ## the decoders: by cargo-fuzz where a nightly toolchain is, MINUTES=1 each (TARGETS=value); else CASES=200000 SEED=2 changes
	@scripts/install cc protoc
	@if rustup toolchain list 2>/dev/null | grep -q ^nightly; then fuzz/run.sh $(MINUTES) $(TARGETS); else \
		cargo test --locked --lib announce::docker::fuzz -- --nocapture && cargo test --locked --test fuzz -- --nocapture; fi

soak: cargo ## 200 containers start and die under announce --all and an agent, for MINUTES=10; fails where something grows
	@scripts/install cc protoc docker dockerd ip etcd etcdctl redis-server redis-cli haproxy
	MINUTES=$(MINUTES) CONTAINERS=$(CONTAINERS) $(cargo_as_root) test --locked --features real --test soak

units: ## the shipped units: systemd-analyze verify and security
	@scripts/install systemd-analyze
	tests/units.sh

cluster: build $(worker) ## three etcd machines, two workers, one with HAProxy; until Ctrl-C, or for CLUSTER_SECONDS=N; DEBIAN=13
	@scripts/install docker dockerd docker-compose ip debootstrap redis-server redis-cli socat
	@exec $(cluster_program) $(sidekick) $(worker) --stay

cluster-test: build $(worker) ## what becomes of the key when machines, members and processes of that cluster fail; NAMES=docker_restart: one scenario; ROUNDS=100: so many stops on purpose
	@scripts/install docker dockerd docker-compose ip debootstrap redis-server redis-cli socat
	@exec $(cluster_program) $(sidekick) $(worker) $(NAMES)

image: cargo $(worker) ## the Dockerfile: built offline, run, looked at
	@scripts/install docker dockerd ip debootstrap etcd etcdctl redis-server redis-cli
	tests/image.sh $(worker)

clean: ## target/, and the Debian root file systems that the tests keep in ~/.cache/sidekick
	cargo clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/sidekick"

help:
	@sed -nE 's/^([a-z-]+):[^#]*## /\1\t/p' Makefile | expand -t 14

cargo:
	@command -v cargo >/dev/null || { echo "no cargo here; this gets it: curl --proto '=https' -sSf https://sh.rustup.rs | sh" >&2; exit 1; }
