# `make help` lists what there is to do here. What is missing is installed by apt (scripts/install).
SHELL := /bin/bash
export CARGO_TARGET_DIR ?= target
CASES ?= 1000000
SEED ?= 2
export PATH := $(PATH):$(HOME)/.cargo/bin:/usr/sbin:/sbin
sidekick := $(CARGO_TARGET_DIR)/release/sidekick
worker := $(CARGO_TARGET_DIR)/release/worker

# The tests with real parts start Docker Engines, which takes root: cargo runs the tests, and only those, with sudo.
cargo_as_root := cargo $(if $(filter-out 0,$(shell id -u)),--config 'target."cfg(unix)".runner="sudo --preserve-env"')

.PHONY: build demo test check deny fuzz units image systemd bench clean help cargo
.NOTPARALLEL:

build: cargo ## the release binary, target/release/sidekick
	@scripts/install cc protoc
	@cargo build --release --locked

# rustc alone: with cargo the tests' dependencies would be built too.
$(worker): examples/worker.rs | build
	@rustc --edition 2024 -O -o $@ $<

demo: build $(worker) ## the whole loop on real parts, one Redis killed; until Ctrl-C, or for DEMO_SECONDS=N
	@scripts/install docker dockerd ip etcd etcdctl redis-server redis-cli haproxy socat
	@exec demo/demo.sh $(sidekick) $(worker)

test: check units build $(worker) ## everything that .ci/run runs: needs root or sudo, 10 to 15 minutes on 2 cores
	@scripts/install docker dockerd ip etcd etcdctl redis-server redis-cli haproxy socat
	SIDEKICK_SIM_SEEDS=3000 RUST_TEST_THREADS=8 $(cargo_as_root) test --locked --features real
	DEMO_SECONDS=0 demo/demo.sh $(sidekick) $(worker)
	@$(MAKE) --no-print-directory systemd image

bench: cargo ## the numbers: sidekick beside the shell loop and the floor; asserts nothing
	@scripts/install cc protoc docker dockerd ip etcd etcdctl redis-server redis-cli
	$(cargo_as_root) bench --locked --features real --bench announce

check: cargo ## formatting, and clippy with warnings denied
	@scripts/install cc protoc
	cargo fmt --check
	cargo clippy --locked --all-targets --all-features -- -D warnings

deny: cargo ## cargo-deny: licences, duplicates, sources, advisories; what is missing of it takes minutes to build
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	cargo deny check

fuzz: cargo ## the decoders, for long: CASES=1000000 changes of each corpus, others with SEED=2
	@scripts/install cc protoc
	SIDEKICK_FUZZ_CASES=$(CASES) SIDEKICK_FUZZ_SEED=$(SEED) cargo test --locked --release --lib --test fuzz fuzz -- --nocapture

units: ## the shipped units: systemd-analyze verify and security
	@scripts/install systemd-analyze
	tests/units.sh

systemd: build ## the shipped units under a real systemd, in a machine in a container
	@scripts/install docker dockerd ip debootstrap redis-server redis-cli
	tests/systemd.sh $(sidekick)

image: cargo ## the Dockerfile: built offline, run, looked at
	@scripts/install docker dockerd ip debootstrap etcd etcdctl redis-server redis-cli
	tests/image.sh

clean: ## target/, and the Debian root file systems that the tests keep in ~/.cache/sidekick
	cargo clean
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/sidekick"

help:
	@sed -nE 's/^([a-z]+):[^#]*## /\1\t/p' Makefile | expand -t 10

cargo:
	@command -v cargo >/dev/null || { echo "no cargo here; this gets it: curl --proto '=https' -sSf https://sh.rustup.rs | sh" >&2; exit 1; }
