# Every target explains itself: make help

SHELL   := /bin/bash
CACHE   ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/skiff
TOOLS   := $(CACHE)/tools
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GOFLAGS := -buildvcs=false
export GOFLAGS

# What Kubernetes' own programs are told they are.
K8S     := v1.36.3
K8S_LD  := -s -w $(foreach p,k8s.io/component-base/version k8s.io/client-go/pkg/version,\
             -X $(p).gitVersion=$(K8S) -X $(p).gitMajor=1 -X $(p).gitMinor=36 -X $(p).gitTreeState=clean)

.DEFAULT_GOAL := help
.PHONY: help
help: ## Say what the targets do
	@grep -hE '^[a-z][a-zA-Z/_-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# ---------------------------------------------------------------- the product

.PHONY: up
up: packages build tools ## Run a cluster on this machine in the foreground (root); Ctrl-C ends it. NODES=2 STORAGE=…
	./bin/skiff up $(if $(NODES),--nodes $(NODES)) $(if $(STORAGE),--storage $(STORAGE)) $(UPFLAGS)

.PHONY: down
down: build ## Clear away what a killed cluster left behind
	./bin/skiff down

.PHONY: build
build: ## Build bin/skiff
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/skiff ./cmd/skiff
	@ln -sfn $(TOOLS) bin/tools
	@ln -sfn tools/kubectl bin/kubectl

# These tests run containers, databases and networks, which share the machine's ports, links and processors with whatever runs beside
# them: one package after the other. The others run as many at once as there are processors.
ALONE = cluster cmd kubelet networkpolicy podnet proxy robustness

.PHONY: test
test: packages test-packages database-packages tools test-tools conformance-tools conformance-images lint ## Run all tests: what CI runs
	export SKIFF_TOOLS=$(TOOLS) SKIFF_IMAGES=$(CACHE)/images; status=0; \
	go test -timeout 40m $$(go list ./... | grep -vE "^$$(go list -m)/($$(echo $(ALONE) | tr ' ' '|'))(/|$$)") || status=1; \
	go test -timeout 40m -p 1 $(ALONE:%=./%/...) || status=1; \
	exit $$status

# Packages whose goroutines share something. Those that run alone are left to PACKAGES.
CONCURRENT = $$(grep -rlE '^\s*"sync(/atomic)?"' --include='*.go' --exclude='*_test.go' */ | grep -vE '^(third_party|$(shell echo $(ALONE) | tr ' ' '|'))/' | sed 's,^,./,;s,/[^/]*$$,,' | sort -u)

.PHONY: race
race: packages test-packages database-packages test-tools compiler ## Run the tests of the packages that are concurrent with Go's race detector: PACKAGES='./apiserver/store ./spdy'
	SKIFF_TOOLS=$(TOOLS) SKIFF_IMAGES=$(CACHE)/images CGO_ENABLED=1 go test -race -timeout 60m $(or $(PACKAGES),$(CONCURRENT))

.PHONY: lint
lint: staticcheck ## Check format, vet and staticcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt-ed:"; echo "$$out"; exit 1; }
	go vet -tags programs ./...
	$(TOOLS)/staticcheck -tags programs ./...

.PHONY: images
images: image-packages ## Make the images of the examples, from packages of the distribution, into bin/images
	go run ./examples/images -out bin/images -cache $(CACHE)

.PHONY: conformance
conformance: packages build tools conformance-tools conformance-images ## Run the official suite: TIER=api FOCUS='Pods' PROCS=4 STORAGE=… UPFLAGS='--proxy-mode nftables' KEEP=1
	$(SUITE) $(if $(TIER)$(FOCUS)$(SKIP)$(STORAGE)$(UPFLAGS),-results '') $(CONFORMANCEFLAGS)

.PHONY: hydrophone
hydrophone: packages build tools conformance-tools conformance-images hydrophone-tool ## Run the suite from inside the cluster: FOCUS='Pods' PROCS=4
	$(SUITE) -hydrophone -dir /tmp/skiff-hydrophone -results '' $(CONFORMANCEFLAGS)

.PHONY: e2e
e2e: packages build tools conformance-tools conformance-images ## Run tests of e2e.test that are not in the conformance suite: FOCUS='sig-apps' SKIP='Feature' PROCS=4
	$(SUITE) -beyond -results '' $(CONFORMANCEFLAGS)

SUITE = go run ./conformance -tools $(TOOLS) -images $(CACHE)/images $(if $(TIER),-tier $(TIER)) $(if $(FOCUS),-focus '$(FOCUS)') \
	$(if $(SKIP),-skip '$(SKIP)') $(if $(STORAGE),-storage '$(STORAGE)') $(if $(UPFLAGS),-up '$(UPFLAGS)') $(if $(PROCS),-procs $(PROCS)) $(if $(KEEP),-keep)

# What TestApplications makes images of.
APPLICATIONS = image-packages busybox podinfo t4 gatekeeper local-path-provisioner seaweedfs

.PHONY: programs
programs: packages build tools helm helm4 cert-manager metrics-server operator kyverno oidc-provider $(APPLICATIONS) ## Install programs of others, as users do, and see that they work
	$(PROGRAMS) -skip '^Test(ControllerRuntime|Fluxcd|Kueue)'

.PHONY: controller-runtime
controller-runtime: packages tools controller-runtime-suites ## Run the suites of controller-runtime on the API server, and on envtest-assets: RUN='client/apiutil'
	$(PROGRAMS) -run '^TestControllerRuntime(Assets)?$$$(if $(RUN),/$(RUN))'

.PHONY: fluxcd-ssa
fluxcd-ssa: packages fluxcd-ssa-suites ## Run the suites of Flux's library for server-side apply on envtest-assets
	$(PROGRAMS) -run '^TestFluxcdSSA$$'

.PHONY: kueue
kueue: packages kubectl kueue-suites kueue-controllers ## Run suites of Kueue on envtest-assets
	$(PROGRAMS) -run '^TestKueue$$'

PROGRAMS = SKIFF_TOOLS=$(TOOLS) SKIFF_PROGRAMS=$(TOOLS) go test -tags programs -count=1 -timeout 75m -v ./conformance/programs

.PHONY: conformance-images
conformance-images: image-packages agnhost coredns nonewprivs resource-consumer busybox sample-apiserver etcd conformance-tools go-runner
	go run ./conformance/images -out $(CACHE)/images -tools $(TOOLS) \
	  -kubernetes "$$(cd third_party/kubernetes && go list -m -f '{{.Dir}}' k8s.io/kubernetes)"

# Besides the ranges of IPv4, Services are asked about with those of IPv6 and of both families.
SERVICE_RANGES = fd00:96::/108 10.96.0.0/16,fd00:96::/108 fd00:96::/108,10.96.0.0/16

.PHONY: oracle
oracle: build etcd kube-apiserver ## Ask kube-apiserver and Skiff the same, list the differences: GROUP=apps KIND=Deployment OUT=differences.txt
	SKIFF_TOOLS=$(TOOLS) go test -tags oracle -count=1 -run "TestInterchange|^TestRecord" ./apiserver/encryption ./apiserver/audit ./apiserver/authn ./apiserver/authn/oidc \
	  ./apiserver/authz ./apiserver/admission ./apiserver/debug ./apiserver/rest
	go run ./conformance/oracle -tools $(TOOLS) $(if $(GROUP),-group $(GROUP)) $(if $(KIND),-kind $(KIND)) $(if $(OUT),-out $(OUT))
	$(if $(GROUP)$(KIND),,for r in $(SERVICE_RANGES); do go run ./conformance/oracle -tools $(TOOLS) -group families -service-cidr $$r || exit 1; done)

# The line of a target that goes test finds, as the folder and the name of it. Dashes before grep's names are for PACKAGES that begin with one.
FUZZTARGETS = grep -roE '^func Fuzz[A-Za-z0-9]+' --include='*_test.go' -- $(or $(PACKAGES),*/) | sed -E 's,^(.*)/[^/]*:func ,./\1 ,'

.PHONY: fuzz
fuzz: ## Try bytes of strangers on what decodes them, one fuzz target after the other: FUZZTIME=10m PACKAGES='apiserver/store spdy'
	@$(FUZZTARGETS) | { status=0; while read -r package name; do echo "$$package $$name"; \
	go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(or $(FUZZTIME),10m) -fuzzminimizetime 5s "$$package" </dev/null || status=1; done; exit $$status; }

.PHONY: bench
bench: ## Run the benchmarks
	go test -run '^$$' -bench . -benchmem ./apiserver/...

.PHONY: compare
compare: build etcd kube-apiserver ## Measure Skiff's API server beside kube-apiserver with etcd: RUNS=1, or ENGINES=all for each storage, beside kine too; OUT=report.md
	$(if $(ENGINES),$(MAKE) kine database-packages)
	go run ./bench -tools $(TOOLS) -runs $(or $(RUNS),3) $(if $(ENGINES),-engines $(ENGINES)) $(if $(OUT),-out $(OUT))

.PHONY: scale
scale: etcd kube-apiserver kube-controller-manager kube-scheduler ## Have control planes place pods on fake nodes, Skiff's and Kubernetes': NODES=1000 PODS=5000 OUT=report.md
	go run ./bench/scale -tools $(TOOLS) $(if $(NODES),-nodes $(NODES)) $(if $(PODS),-pods $(PODS)) $(if $(OUT),-out $(OUT))

.PHONY: flood
flood: build etcd kube-apiserver ## Have 300 of 400 clients list without a pause, and see what leases and an administrator wait: TIME=30s OUT=report.md
	go run ./bench/flood -skiff bin/skiff -tools $(TOOLS) $(if $(TIME),-time $(TIME)) $(if $(OUT),-out $(OUT))

.PHONY: compare-scheduler
compare-scheduler: build kube-scheduler ## Measure the scheduler beside kube-scheduler on the same API server: NODES=1000 PODS=1000 ONLY=affinity OUT=report.md
	go run ./bench/schedule -skiff bin/skiff -tools $(TOOLS) $(if $(NODES),-nodes $(NODES)) $(if $(PODS),-pods $(PODS)) $(if $(ONLY),-only '$(ONLY)') \
	  $(if $(OUT),-out $(OUT))

.PHONY: ingress
ingress: nginx ## Measure the ingress beside Debian's nginx, and what 10,000 rules cost: TIME=10
	go run ./bench/ingress -nginx $(TOOLS)/nginx $(if $(TIME),-seconds $(TIME))

.PHONY: compare-proxy
compare-proxy: packages build kube-proxy ## Measure the service proxy in each mode beside kube-proxy: SERVICES=10000 ENDPOINTS=5 ONLY=nftables (root)
	go run ./bench/proxy -skiff bin/skiff -kube-proxy $(TOOLS)/kube-proxy $(if $(SERVICES),-services $(SERVICES)) $(if $(ENDPOINTS),-endpoints $(ENDPOINTS)) \
	  $(if $(ONLY),-only '$(ONLY)')

.PHONY: robustness
robustness: build etcd database-packages ## Clients, faults, and a judge of what they saw: TIME=1h ENGINE='etcd twice' FAULTS='partition,kill' SEED=7 COUNT=1
	SKIFF_TOOLS=$(TOOLS) go run ./robustness $(if $(TIME),-time $(TIME)) $(if $(ENGINE),-engine '$(ENGINE)') $(if $(FAULTS),-faults '$(FAULTS)') \
	  $(if $(SEED),-seed $(SEED)) $(if $(COUNT),-count $(COUNT))

# The kernel of this machine may lack what the tests need. The guest has another, and no network. The distribution's is slow without KVM.
.PHONY: test-guest
test-guest: guest-packages image-packages ## Run tests in a virtual machine with the distribution's kernel, which has IPVS: PACKAGES='./proxy/ipvs' RUN=Table
	go run ./conformance/guest -cache $(CACHE) -arguments "-test.v $(if $(RUN),-test.run '$(RUN)')" $(or $(PACKAGES),./proxy/...)

# What the guest needs for the suite, in its folders /tools and /images.
GUEST_TOOLS = containerd containerd-shim-runc-v2 ctr cni coredns pause kubectl e2e.test ginkgo
GUEST_SUITE = conformance -skiff /usr/bin/skiff -tools /tools -images /images -dir /suite -results '' -up '$(or $(UPFLAGS),--proxy-mode ipvs)' \
  -procs $(or $(PROCS),1) -focus '$(or $(FOCUS),\[sig-network\])' $(if $(SKIP),-skip '$(SKIP)') $(if $(BEYOND),-beyond)

.PHONY: conformance-guest
conformance-guest: guest-packages kernel-packages build tools conformance-tools conformance-images ## Run the suite's network tests on IPVS, in User Mode Linux: FOCUS='Services' SKIP=… PROCS=2 UPFLAGS=… BEYOND=1
	CGO_ENABLED=0 go build -trimpath -o bin/conformance ./conformance
	go run ./conformance/guest -machine uml -cache $(CACHE) -memory 8192 -disk 16G -timeout 6h -command "$(GUEST_SUITE)" \
	  -file bin/skiff:usr/bin/skiff -file bin/conformance:usr/bin/conformance $(foreach t,$(GUEST_TOOLS),-file $(TOOLS)/$(t):tools/$(t)) \
	  $(foreach i,$(wildcard $(CACHE)/images/registry.k8s.io_e2e-test-images_*.tar) $(CACHE)/images/differences.md,-file $(i):images/$(notdir $(i))) \
	  -fetch /suite/reports/junit_01.xml:bin/junit_guest.xml -fetch /suite/e2e.log:bin/guest.log

# What building the kernel of User Mode Linux needs.
.PHONY: kernel-packages
kernel-packages: compiler image-packages
	@$(call need,flex:flex bison:bison bc:bc xz:xz-utils)

.PHONY: guest-packages
guest-packages:
	@$(call need,qemu-system-x86_64:qemu-system-x86 mkfs.ext4:e2fsprogs)

.PHONY: clean
clean: ## Remove bin/ (the cached tools stay: rm -r $(CACHE))
	rm -rf bin

# ------------------------------------------------ what the machine must provide

# command:package pairs of Debian; installed only when the command is missing.
NEEDS := pgrep:procps runc:runc iptables:iptables ip:iproute2 conntrack:conntrack mount:mount curl:curl

# $(call need,pairs)
need = missing=; for n in $(1); do command -v $${n%%:*} >/dev/null || missing="$$missing $${n\#\#*:}"; done; \
	[ -z "$$missing" ] || { echo "installing$$missing"; apt-get update -qq && apt-get install -y -qq --no-install-recommends --no-remove $$missing; }

.PHONY: packages
packages:
	@$(call need,$(NEEDS))

# What tests ask about the rules that there are, besides what makes them.
.PHONY: test-packages
test-packages:
	@$(call need,nft:nftables ipset:ipset)

# The databases that tests start. Only programs are wanted, no service: MariaDB's are packages of their own; of PostgreSQL, Debian
# makes and starts a server when it is installed, unless told not to. Who has one already keeps it as it is, and the tests use its
# programs for servers of their own.
CREATE_CLUSTER := /etc/postgresql-common/createcluster.d

.PHONY: database-packages
database-packages:
	@$(call need,mariadbd:mariadb-server-core mariadb:mariadb-client-core)
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || { \
	mkdir -p $(CREATE_CLUSTER); trap 'rm -f $(CREATE_CLUSTER)/skiff.conf' EXIT; \
	echo "create_main_cluster = false" > $(CREATE_CLUSTER)/skiff.conf; \
	echo "installing postgresql"; apt-get update -qq && apt-get install -y -qq --no-install-recommends --no-remove postgresql; }

# Of nginx only the program is wanted. The package would start a service.
.PHONY: nginx
nginx: image-packages
	@mkdir -p $(TOOLS); [ -x $(TOOLS)/nginx ] || { echo "unpacking nginx"; dir=$$(mktemp -d); trap 'rm -rf $$dir' EXIT; chmod 755 $$dir; \
	(cd $$dir && apt-get download -qq nginx && dpkg-deb -x nginx_*.deb .) && cp $$dir/usr/sbin/nginx $(TOOLS)/nginx; }

# What making images needs besides: apt itself, and its lists of packages.
.PHONY: image-packages
image-packages:
	@command -v dpkg-deb >/dev/null && command -v apt-get >/dev/null || { echo "images are made from Debian packages: this needs a Debian"; exit 1; }
	@ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || apt-get update -qq

# ------------------------------------------------------- pinned upstream programs
# Each is built from its Go module, at the versions of third_party/*/go.mod, and
# kept outside the tree. .<name> beside it holds the hash of what it was built
# from, so that a fresh clone builds nothing again.

.PHONY: tools test-tools conformance-tools
tools: containerd cni coredns kubectl pause ## Build what a cluster runs: containerd, CNI plugins, CoreDNS, kubectl, pause
test-tools: etcd kube-apiserver staticcheck ## Build what the tests need besides: kube-apiserver, etcd, staticcheck

conformance-tools: e2e.test ginkgo kubectl ## Build the official conformance suite and its runner

# $(call tool,name,sources,folder,go build arguments[,command instead of go build])
define tool
.PHONY: $(1)
$(1):
	@mkdir -p $$(TOOLS)/cni; hash=$$$$(cat $(2) | sha256sum | cut -c1-16); \
	[ "$$$$(cat $$(TOOLS)/.$(1) 2>/dev/null)" = "$$$$hash" ] || { echo "building $(1)"; \
	(cd $(3) && CGO_ENABLED=0 $(or $(5),go build) -trimpath $(4)) && echo "$$$$hash" > $$(TOOLS)/.$(1); }
endef

MODULE = third_party/$(1)/go.mod third_party/$(1)/go.sum

$(eval $(call tool,containerd,$(call MODULE,containerd),third_party/containerd,\
  -o $(TOOLS)/ -tags "no_btrfs no_zfs no_devmapper" -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=v2.4.2" tool))
$(eval $(call tool,cni,$(call MODULE,cni),third_party/cni,-o $(TOOLS)/cni/ -ldflags "-s -w" tool))
$(eval $(call tool,coredns,$(call MODULE,coredns) third_party/coredns/main.go,third_party/coredns,-o $(TOOLS)/coredns -ldflags "-s -w" .))
$(eval $(call tool,kubectl,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ -ldflags "$(K8S_LD)" k8s.io/kubernetes/cmd/kubectl))
$(eval $(call tool,kube-apiserver,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ -ldflags "$(K8S_LD)" k8s.io/kubernetes/cmd/kube-apiserver))
$(eval $(call tool,kube-proxy,$(call MODULE,kube-proxy),third_party/kube-proxy,-o $(TOOLS)/ -ldflags "$(K8S_LD)" k8s.io/kubernetes/cmd/kube-proxy))
$(eval $(call tool,kube-scheduler,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ -ldflags "$(K8S_LD)" k8s.io/kubernetes/cmd/kube-scheduler))
$(eval $(call tool,kube-controller-manager,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ -ldflags "$(K8S_LD)" k8s.io/kubernetes/cmd/kube-controller-manager))
$(eval $(call tool,etcd,$(call MODULE,etcd),third_party/etcd,-o $(TOOLS)/etcd -ldflags "-s -w" go.etcd.io/etcd/server/v3))
# kine as it is released, with SQLite in C, which is the faster of its two.
$(eval $(call tool,kine,$(call MODULE,kine),third_party/kine,-o $(TOOLS)/kine -ldflags "-s -w" \
  -tags "sqlite_unlock_notify sqlite_vtable sqlite_stat4 sqlite_preupdate_hook sqlite_math_functions sqlite_dbstat sqlite_column_metadata" \
  github.com/k3s-io/kine,env CGO_ENABLED=1 go build))
kine: compiler

.PHONY: compiler
compiler:
	@$(call need,gcc:build-essential)

$(eval $(call tool,staticcheck,$(call MODULE,staticcheck),third_party/staticcheck,-o $(TOOLS)/ honnef.co/go/tools/cmd/staticcheck))
$(eval $(call tool,e2e.test,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/e2e.test -ldflags "$(K8S_LD)" k8s.io/kubernetes/test/e2e,go test -c))
$(eval $(call tool,ginkgo,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ github.com/onsi/ginkgo/v2/ginkgo))
$(eval $(call tool,agnhost,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ -ldflags "-s -w -X main.Version=2.63.0" k8s.io/kubernetes/test/images/agnhost))
$(eval $(call tool,go-runner,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/go-runner -ldflags "-s -w" k8s.io/kubernetes/test/conformance/image/go-runner))
$(eval $(call tool,sample-apiserver,$(call MODULE,sample-apiserver),third_party/sample-apiserver,-o $(TOOLS)/ -ldflags "-s -w" k8s.io/sample-apiserver))
$(eval $(call tool,hydrophone-tool,$(call MODULE,hydrophone),third_party/hydrophone,-o $(TOOLS)/ -ldflags "-s -w" sigs.k8s.io/hydrophone))
$(eval $(call tool,cyclonus,$(call MODULE,cyclonus),third_party/cyclonus,-o $(TOOLS)/ -ldflags "-s -w" github.com/mattfenwick/cyclonus/cmd/cyclonus))
$(eval $(call tool,helm,$(call MODULE,helm),third_party/helm,-o $(TOOLS)/ -ldflags "-s -w" helm.sh/helm/v3/cmd/helm))
$(eval $(call tool,helm4,$(call MODULE,helm4),third_party/helm4,-o $(TOOLS)/helm4 -ldflags "-s -w" helm.sh/helm/v4/cmd/helm))
$(eval $(call tool,cert-manager,$(call MODULE,cert-manager),third_party/cert-manager,-o $(TOOLS)/cert-manager/ -ldflags "-s -w" tool))
$(eval $(call tool,kyverno,$(call MODULE,kyverno),third_party/kyverno,-o $(TOOLS)/kyverno/ -ldflags "-s -w" tool))
$(eval $(call tool,metrics-server,$(call MODULE,metrics-server),third_party/metrics-server,-o $(TOOLS)/ -ldflags "-s -w" tool))
$(eval $(call tool,podinfo,$(call MODULE,podinfo),third_party/podinfo,-o $(TOOLS)/podinfo/ -ldflags "-s -w" tool))
$(eval $(call tool,t4,$(call MODULE,t4),third_party/t4,-o $(TOOLS)/t4 -ldflags "-s -w" tool))
$(eval $(call tool,gatekeeper,$(call MODULE,gatekeeper),third_party/gatekeeper,-o $(TOOLS)/gatekeeper -ldflags "-s -w" tool))
$(eval $(call tool,local-path-provisioner,$(call MODULE,local-path-provisioner),third_party/local-path-provisioner,-o $(TOOLS)/local-path-provisioner -ldflags "-s -w" tool))
$(eval $(call tool,seaweedfs,$(call MODULE,seaweedfs),third_party/seaweedfs,-o $(TOOLS)/seaweedfs -ldflags "-s -w" tool))
$(eval $(call tool,operator,$(call MODULE,operator) third_party/operator/main.go,third_party/operator,-o $(TOOLS)/operator -ldflags "-s -w" .))
$(eval $(call tool,oidc-provider,$(call MODULE,oidc) third_party/oidc/main.go,third_party/oidc,-o $(TOOLS)/oidc-provider -ldflags "-s -w" .))
$(eval $(call tool,controller-runtime-suites,$(call MODULE,controller-runtime),third_party/controller-runtime,-o $(TOOLS)/controller-runtime/ -ldflags "-s -w" \
  $(addprefix sigs.k8s.io/controller-runtime/pkg/,builder cache client client/apiutil cluster controller controller/controllerutil envtest handler manager \
  manager/internal/integration metrics/filters reconcile source webhook),go test -c))
$(eval $(call tool,fluxcd-ssa-suites,$(call MODULE,fluxcd-ssa),third_party/fluxcd-ssa,-o $(TOOLS)/fluxcd-ssa/ -ldflags "-s -w" \
  github.com/fluxcd/pkg/ssa github.com/fluxcd/pkg/ssa/jsondiff,go test -c))
$(eval $(call tool,kueue-suites,$(call MODULE,kueue),third_party/kueue,-o $(TOOLS)/kueue/ -ldflags "-s -w" \
  $(addprefix sigs.k8s.io/kueue/test/integration/singlecluster/,controller/jobs/job conversion scheduler webhook/core),go test -c))
$(eval $(call tool,kueue-controllers,$(call MODULE,kueue),third_party/kueue,-o $(TOOLS)/kueue/controllers.test -ldflags "-s -w" \
  sigs.k8s.io/kueue/test/integration/singlecluster/controller/core,go test -c))
$(eval $(call tool,nonewprivs,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/ -ldflags "-s -w" k8s.io/kubernetes/test/images/nonewprivs))
$(eval $(call tool,resource-consumer,$(call MODULE,kubernetes),third_party/kubernetes,-o $(TOOLS)/resource-consumer/ -ldflags "-s -w" \
  k8s.io/kubernetes/test/images/resource-consumer k8s.io/kubernetes/test/images/resource-consumer/consume-cpu))
$(eval $(call tool,pause,cmd/pause/main.go,.,-o $(TOOLS)/pause -ldflags "-s -w" ./cmd/pause))

# The image of busybox is of its sources, for Debian's loses variables whose
# names no shell could use, which tests look at.
.PHONY: busybox
busybox:
	@mkdir -p $(TOOLS); hash=$$(sha256sum < third_party/busybox/build.sh | cut -c1-16); \
	[ "$$(cat $(TOOLS)/.busybox 2>/dev/null)" = "$$hash" ] || { echo "building busybox"; \
	$(call need,gcc:build-essential make:make bzip2:bzip2 curl:curl); \
	third_party/busybox/build.sh $(TOOLS)/busybox $(CACHE)/sources && echo "$$hash" > $(TOOLS)/.busybox; }
