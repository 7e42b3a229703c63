# Every target works from a clean clone. `make demo` needs Go and iproute2; `make test` installs what it needs (root).
SHELL := /bin/bash
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BIN     := build/bin
TOOLS   := build/tools
GOLANGCI_VERSION := v2.15.0
COREDNS_VERSION  := v1.15.0

export CGO_ENABLED ?= 0

.PHONY: build demo test bench lint generate lab clean deps install fuzz crash ledger-crash siege storm names docker-storm

build:
	go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...

demo: build
	$(BIN)/hostfabric-lab demo $(DEMO_FLAGS)

# Labs that measure no losses.
PATIENT := /lab/(binaries|containerlab|e2e|etcd|fabric|names|netns|resolve|storm|tor|workload)(/|$$)

# The race detector needs cgo. The tests of a package wait for timers of protocols more than they compute: more at a time than
# there are processors, the longest one first. The other labs run one after another, and after the rest: they measure losses on
# a machine that should have nothing else to do.
test: deps lint build
	CGO_ENABLED=1 go test -race -count=1 -p 3 -parallel 8 -timeout 15m ./bgp $$(go list ./... | grep -v '/bgp$$' | grep -vE '/lab/') $$(go list ./lab/... | grep -E '$(PATIENT)')
	CGO_ENABLED=1 go test -race -count=1 -timeout 15m -p 1 $$(go list ./lab/... | grep -vE '$(PATIENT)')

deps:
	lab/deps.sh $(TOOLS)

bench: deps build $(TOOLS)/coredns-$(COREDNS_VERSION)
	$(BIN)/hostfabric-lab bench --coredns $(TOOLS)/coredns-$(COREDNS_VERSION) $(BENCH)

# The allocator killed at random moments, many times.
crash:
	go test -count=1 -v -timeout 60m -run 'TestCrash$$' ./ipam -crash.rounds $(or $(ROUNDS),1000)

# The ledger's writer killed at random moments, and its files damaged.
ledger-crash:
	go test -count=1 -v -timeout 60m -run 'TestCrash|TestDamage|TestFullDisk' ./agent/history -crash.rounds $(or $(ROUNDS),200) -damage.rounds $(or $(ROUNDS),200)

# A router that attacks under traffic, in all the ways there are tests of.
siege:
	go test -count=1 -v -timeout 60m -run 'TestSiege' ./lab/hostile -siege.all

# Containers that come and go from all sides for a minute, while the agent is killed every second or two.
storm:
	go test -count=1 -v -timeout 10m -run 'TestStorm' ./lab/storm -storm.for $(or $(FOR),1m)

# Short-lived containers whose names are asked for on another host right after they have come and gone, many of them.
names:
	go test -count=1 -v -timeout 30m -run 'TestShortLives' ./lab/names -names.lives $(or $(LIVES),10000)

# Containers of a real Docker come and go while agents and dockerds are killed.
docker-storm:
	go test -count=1 -v -timeout 60m -run 'TestDocker' ./lab/docker -docker.storm $(or $(STORM),2m)

# Everything that parses outside bytes, FUZZTIME each.
fuzz:
	@for package in $$(git ls-files '*_test.go' | xargs grep -l '^func Fuzz' | xargs -n1 dirname | sort -u); do \
		for target in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$package/*_test.go | cut -c6-); do \
			go test -run xxx -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),30s) -fuzzminimizetime 10x ./$$package || exit 1; \
		done; \
	done

lint: $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); if [ -n "$$unformatted" ]; then echo "not gofmt'ed: $$unformatted"; exit 1; fi
	go vet ./...
	$< run ./...

$(TOOLS)/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN=$(CURDIR)/$(TOOLS) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(TOOLS)/golangci-lint $@

# Only the benchmarks need it: it takes longer to build than all of ours.
$(TOOLS)/coredns-$(COREDNS_VERSION):
	GOBIN=$(CURDIR)/$(TOOLS) GOFLAGS=-mod=mod go install github.com/coredns/coredns@$(COREDNS_VERSION)
	mv $(TOOLS)/coredns $@

# Needs protoc (apt-get install protobuf-compiler libprotobuf-dev); the plugins are pinned in go.mod.
generate:
	go build -o $(TOOLS)/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH=$(CURDIR)/$(TOOLS):$$PATH protoc -I . --go_out=. --go_opt=module=github.com/hostfabric/hostfabric \
		--go-grpc_out=. --go-grpc_opt=module=github.com/hostfabric/hostfabric agent/api/v1/hostfabric.proto

# A fabric that stays: look around with `ip netns exec hf-r1h1 ...`, end it with `build/bin/hostfabric-lab down`.
lab: build
	$(BIN)/hostfabric-lab up $(LAB_FLAGS)

clean:
	rm -rf build

# Installs on this host; enable with `systemctl enable --now hostfabric`.
install: build
	install -D -m 0755 -t $(DESTDIR)/usr/bin $(BIN)/hostfabric
	install -D -m 0755 -t $(DESTDIR)/opt/cni/bin $(BIN)/hostfabric-cni
	install -D -m 0644 -t $(DESTDIR)/usr/lib/systemd/system configs/systemd/*.service
	install -D -m 0644 -t $(DESTDIR)/usr/lib/sysusers.d configs/systemd/sysusers.d/hostfabric.conf
	install -D -m 0644 -t $(DESTDIR)/usr/lib/tmpfiles.d configs/systemd/tmpfiles.d/hostfabric.conf
	install -D -m 0644 -t $(DESTDIR)/usr/lib/sysctl.d configs/sysctl.d/90-hostfabric.conf
	install -D -m 0644 -t $(DESTDIR)/etc/iproute2/rt_protos.d configs/rt_protos.d/hostfabric.conf
	[ -e $(DESTDIR)/etc/hostfabric/hostfabric.yaml ] || install -D -m 0644 -t $(DESTDIR)/etc/hostfabric configs/hostfabric.yaml
