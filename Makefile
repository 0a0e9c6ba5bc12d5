# Two commands do everything on a fresh Debian machine with Rust, make and a C compiler:
#   make demo    see the governor at work, on this machine only
#   make test    all checks, with real nginx, HAProxy, Prometheus and tshark on loopback

CARGO ?= cargo
SERVERS := $(CURDIR)/target/servers
# Live capture is built where libpcap is there to link with: unpacked by `make servers`, or the system's.
LIVE = $(shell { test -e $(SERVERS)/lib/libpcap.so || pkg-config --exists libpcap 2>/dev/null; } && echo --features live)

.PHONY: help demo test live lint servers bench bench-engine captures schema
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: ## watch the governor at work against a built-in shop (under a minute)
	$(CARGO) run --release --locked --quiet --bin replay -- demo

servers: ## fetch and unpack the test servers into target/servers (nothing is installed)
	tests/servers/setup.sh

live: servers ## build target/release/replay with capture from interfaces (`replay capture --live`)
	$(CARGO) build --release --locked --bin replay --bin replayd $(LIVE)
	@test -n "$(LIVE)" || { echo "libpcap is not here: apt-get install libpcap-dev"; exit 1; }
	@ldd target/release/replay | grep -q 'libpcap.*not found' && \
	  echo 'to run it here: LD_LIBRARY_PATH=target/servers/lib target/release/replay ..., or apt-get install libpcap0.8' || true

lint: ## formatting, clippy and documentation, all warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets $(LIVE) -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet $(LIVE)

test: servers lint ## everything: lint, unit and property tests, real servers on loopback
	REPLAY_LIBPCAP_RPATH=1 REPLAY_SERVERS=$(SERVERS) $(CARGO) test --locked --profile fast $(LIVE)
	$(CARGO) test --locked --profile fast -p replay-loom

bench-engine: servers ## the engine beside other load generators (needs 2 cores to itself, some 15 minutes)
	$(CARGO) build --release --locked --bin replay --example steady_trace
	$(CARGO) bench --locked --bench engine

bench: ## send accuracy and cost against a loopback server, with ratios
	REPLAY_SERVERS=$(SERVERS) $(CARGO) bench --locked

captures: servers ## make captures/ anew (needs the right to capture on lo)
	captures/make.sh

schema: ## write the JSON Schemas of reports and policies anew
	$(CARGO) run --release --locked --quiet --bin replay -- schema > docs/report.schema.json
	$(CARGO) run --release --locked --quiet --bin replay -- schema policy > policies/policy.schema.json
