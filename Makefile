# Everything a contributor or CI runs. `make` alone lists the targets.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

GO        ?= go
BENCH     ?= .
BENCHTIME ?= 1s
FUZZTIME  ?= 5s
SCENARIO  ?= typical
WORKLOAD  ?= bulk
SECONDS   ?= 20
SEEDS     ?= 200

# What bench-peers measures, and the versions it installs; Debian's are those of its release.
PEERSCENARIOS ?= clean,typical,heavy,skewed,outage
PEERSECONDS   ?= 20
PEERFLAGS     ?=
PATHSFLAGS    ?=
SINGBOX       ?= v1.14.1
WIREGUARD     ?= v0.0.0-20260522210424-ecfc5a8d5446

VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS   := -s -w -X github.com/landbridge/landbridge/internal/cli.version=$(VERSION)

# A test that hangs is a failure; the whole suite takes a fraction of this.
TIMEOUT      ?= 9m
RACETIMEOUT  ?= 15m

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## the programs, into bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: generate
generate: ## compile the BPF programs (needs clang, llvm, libbpf-dev)
	@command -v clang >/dev/null && command -v llvm-strip >/dev/null || { echo "generate: clang and llvm-strip are needed: apt-get install clang llvm libbpf-dev" >&2; exit 1; }
	$(GO) generate ./bpf/...

.PHONY: check-generate
check-generate: ## prove that the committed BPF objects are those of the sources
	@command -v clang >/dev/null && command -v llvm-strip >/dev/null || { echo "check-generate: clang and llvm-strip are needed: apt-get install clang llvm libbpf-dev" >&2; exit 1; }
	@tmp=$$(mktemp -d ./check-generate.XXXXXX) && trap 'rm -rf "$$tmp"' EXIT && cp -r bpf "$$tmp/bpf" && \
	(cd "$$tmp/bpf" && $(GO) generate .) && \
	if diff -rq bpf "$$tmp/bpf"; then echo "generated files are fresh"; \
	else echo "check-generate: run 'make generate' and commit the result (built here with $$(clang --version | head -1))" >&2; exit 1; fi

.PHONY: fmt
fmt: ## format the sources
	gofmt -w $$($(GO) list -f '{{.Dir}}' ./...)

.PHONY: lint
lint: ## formatting, go vet and staticcheck
	@bad=$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...)); if [ -n "$$bad" ]; then echo "not formatted (make fmt):" >&2; echo "$$bad" >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

.PHONY: test
test: ## all tests; those that need root are skipped without it
	$(GO) test -shuffle=on -timeout $(TIMEOUT) ./...

.PHONY: sim
sim: ## the simulated suite over SEEDS (200) seeds from TEST_SEED (1) on, with a table of what they measured
	cd tunnel/bond && SIM_SEEDS=$(SEEDS) $(GO) test -count=1 -run '^TestSim$$' -timeout 24h

.PHONY: race
race: ## all tests under the race detector
	$(GO) test -race -shuffle=on -timeout $(RACETIMEOUT) ./...

# Minimising is for people who look at a finding; here it would eat the time for finding one. Up to Go 1.26 the fuzzer may take
# the end of its own time for a failure (golang/go#75804): one that says nothing else has found nothing.
FUZZEND := ^(fuzz: elapsed: .*|--- FAIL: Fuzz[A-Za-z0-9_]+ \([0-9.]+s\)|    context deadline exceeded|exit status 1|FAIL.*)?$$
.PHONY: fuzz-short
fuzz-short: ## every fuzz target for FUZZTIME (5s)
	@grep -rlE --include='*_test.go' '^func Fuzz[A-Z]' . | xargs -n1 dirname | sort -u | while read -r dir; do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go | sed 's/^func //'); do \
	    out=$$($(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x -timeout 5m "$$dir" </dev/null 2>&1) || \
	      { grep -qx '    context deadline exceeded' <<<"$$out" && ! grep -qvE '$(FUZZEND)' <<<"$$out"; } || { echo "$$out"; exit 1; }; \
	    echo "$$dir $$f: $$(echo "$$out" | grep -oE 'execs: [0-9]+' | tail -1)"; \
	  done; done

.PHONY: bench
bench: ## benchmarks; BENCH=regexp, BENCHTIME=1s
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -timeout 60m ./...

.PHONY: demo
demo: build ## the main job before your eyes, in about a minute
	./bin/landbridge lab demo

# Each run's trace and the page of all of them stay in bench-report/.
.PHONY: bench-report
bench-report: build ## plots of lab runs (root); SECONDS=20, or of recorded ones: TRACE="a.json b.json"
	@mkdir -p bench-report; traces='$(TRACE)'; failed=; \
	if [ -z "$$traces" ]; then for s in typical heavy outage; do \
	  rm -f bench-report/$$s.json; \
	  ./bin/landbridge lab run $$s --name report --no-agent --seconds $(SECONDS) --trace bench-report/$$s.json || failed="$$failed $$s"; \
	  [ ! -e bench-report/$$s.json ] || traces="$$traces bench-report/$$s.json"; echo; \
	done; fi; \
	./bin/landbridge lab report -o bench-report $$traces; \
	if [ -n "$$failed" ]; then echo "bench-report: failed:$$failed" >&2; exit 1; fi

.PHONY: lab-up
lab-up: build ## the lab's topology in network namespaces (root)
	./bin/landbridge lab up

.PHONY: lab-run
lab-run: build ## one run; SCENARIO=typical WORKLOAD=bulk SECONDS=20
	./bin/landbridge lab run $(SCENARIO) --workload $(WORKLOAD) --seconds $(SECONDS) --json

.PHONY: lab-down
lab-down: build ## take the lab down
	./bin/landbridge lab down

# What cannot be had is written down with its reason, and becomes a row of the table.
.PHONY: peers
peers: ## other tools to compare with: kcptun, OpenVPN (Debian), sing-box, wireguard-go (go install)
	@mkdir -p bin bench-peers && : >bench-peers/missing.txt; log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; \
	missing() { echo "peers: no $$1: $$2" >&2; printf '%s\t%s\n' "$$1" "$$2" >>bench-peers/missing.txt; }; \
	debian() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$$1" >"$$log" 2>&1; }; \
	for p in kcptun-client:kcptun openvpn:openvpn; do tool=$${p%%:*}; \
	  [ -x /usr/bin/$$tool ] || [ -x /usr/sbin/$$tool ] || debian $${p##*:} || { apt-get update >>"$$log" 2>&1; debian $${p##*:}; } || \
	    missing $$tool "apt-get install $${p##*:}: $$(tail -n 1 "$$log")"; done; \
	for p in sing-box:github.com/sagernet/sing-box/cmd/sing-box@$(SINGBOX) wireguard:golang.zx2c4.com/wireguard@$(WIREGUARD); do tool=$${p%%:*}; \
	  [ -x bin/$$tool ] || GOBIN=$(CURDIR)/bin $(GO) install -trimpath -tags with_quic "$${p#*:}" 2>"$$log" || \
	    missing $$tool "go install $${p#*:}: $$(tail -n 1 "$$log")"; done

.PHONY: bench-peers
bench-peers: build peers ## Landbridge beside other tools, one table (root); PEERSCENARIOS, PEERSECONDS, PEERFLAGS="--via ..."
	./bin/landbridge lab compare --scenarios $(PEERSCENARIOS) --seconds $(PEERSECONDS) --object-seconds $(PEERSECONDS) --out bench-peers $(PEERFLAGS)

.PHONY: bench-paths
bench-paths: build ## what the live paths promise, measured: one table, in about twelve minutes (root); PATHSFLAGS="--only ..."
	./bin/landbridge lab paths --out bench-paths $(PATHSFLAGS)

.PHONY: clean
clean: ## remove what the targets made
	rm -rf bin demo bench-peers bench-paths bench-report check-generate.*
