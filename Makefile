# The front door. Everything is built inside a Debian build root that the first
# run sets up (see qemu/); the host needs no Rust, no QEMU and no kernel headers.
#
#   KVER=    kernel release to build for, and to boot by "make run", "make test", "make smoke" and "make shell",
#            e.g. KVER=$(uname -r) on Debian 13; default: the newest 7.x cloud kernel in the archive
#   KDIR=    a kernel's output folder with Rust metadata, for which "make" builds ravel.ko instead
#   TESTS=   patterns that choose tests for "make test" or "make selftests", or with a ! leave some out
#   MATRIX=  tests of "make matrix": smoke, which is the default, or test for all of them
#   BENCH=   what "make bench" is to measure: flat (of which events and instructions are parts), beside (of which
#            target, sockets, packets, loss and queue are); default: all of it
#   MEM=     MiB of memory for the VM, e.g. 6144 for the whole of cost.parent_and_1000_children_all_copied

SHELL := /bin/bash
# A colon, not "=": when this make began.
START := $(shell date +%s)
export START KVER TESTS MATRIX BENCH MEM

# Targets that share the checkout's objects must not run at once.
.NOTPARALLEL:
.PHONY: all run test smoke matrix kernels proof bench test-debug test-kcsan selftests selftests-debug shell \
	metadata clippy lint unit tables fmt fmt-check dist deb deb-reproduce deb-test update clean distclean help

all: ## Build ravel.ko and the ravel command (the default); with KDIR=, ravel.ko for that kernel tree
ifneq ($(KDIR),)
	qemu/kdir "$(KDIR)"
else
	@qemu/setup --no-vm
endif

run: ## Boot the VM and show the demonstration
	@qemu/setup
	@qemu/vm demo

test: ## Run the tests in the VM (TESTS='anon. !churn' to choose some)
	@qemu/setup
	@qemu/vm test

smoke: ## Load the module, show the demonstration and run a short test of each subject
	@qemu/setup
	@qemu/vm smoke

matrix: ## The same on the newest kernel of every series and flavour; updates the table in README.md
	@KVER= qemu/setup --no-vm --no-build
	@qemu/matrix

kernels: ## List Debian's kernels, and whether they are supported
	@KVER= qemu/setup --no-vm --no-build
	@qemu/kernels

proof: export RAVEL_PROOF_RUNS ?= 200
proof: ## Prove delivery in 200 runs (RAVEL_PROOF_SEED=51 RAVEL_PROOF_RUNS=50 for a part)
	@KVER= qemu/setup
	@KVER= TESTS=proof. TIMEOUT=7200 qemu/vm test

bench: ## Measure in the VM what reading costs, as ratios to its alternatives (BENCH='events loss' for some of it)
	@KVER= qemu/setup --peers
	@KVER= qemu/vm bench

test-debug: ## The same on a kernel that checks itself (the first time: half an hour)
	@KVER= qemu/setup --debug debug
	@KVER= qemu/vm test debug

test-kcsan: ## The same on a kernel that looks for data races
	@KVER= qemu/setup --debug kcsan
	@KVER= qemu/vm test kcsan

selftests: ## Run the kernel's own tests in the VM while ravel reads them
	@KVER= qemu/setup --selftests
	@KVER= qemu/vm selftests

selftests-debug: ## The same on the kernel that checks itself
	@KVER= qemu/setup --selftests --debug debug
	@KVER= qemu/vm selftests debug

shell: ## Open a shell in the VM, module loaded
	@qemu/setup
	@qemu/vm shell

metadata: ## Make the Rust metadata of a kernel (KVER=release)
	@qemu/setup --no-vm --no-build

clippy: ## Check module and tools with clippy, warnings being errors
	@qemu/setup --no-vm --no-build
	qemu/module clippy
	qemu/tools clippy

lint: ## Check rules of the source that no compiler checks
	@qemu/setup --no-vm
	qemu/lint

unit: ## Run the tools' own tests, which need no VM
	@qemu/setup --no-vm --no-build
	qemu/tools test

tables: ## Write the tables of records in FORMAT.md and EVENTS.md, from src/records/
	@qemu/setup --no-vm --no-build
	qemu/tools tables

fmt: ## Format module and tools
	@qemu/setup --no-vm --no-build
	qemu/tools fmt

fmt-check: ## Say what "make fmt" would change, and fail if anything
	@qemu/setup --no-vm --no-build
	qemu/tools fmt-check

dist: ## Pack the source into dist/ravel-VERSION.tar.xz
	@qemu/dist

deb: ## Build the Debian packages into dist/ and check them
	@qemu/host
	@qemu/deb-root
	@qemu/deb

deb-reproduce: ## The same, twice from nothing, and compare every byte
	@qemu/host
	@qemu/deb-root
	@qemu/deb --reproduce

deb-test: deb ## Install the packages in a fresh Debian, boot their module in the VM, purge them
	@KVER= qemu/setup --no-build
	@qemu/deb-test

update: ## Look again for the newest kernel in the archive
	@qemu/update

clean: ## Remove what was built in this checkout
	@qemu/clean

distclean: ## The same, and the whole cache (build root, kernels, images)
	@qemu/clean --cache

help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile
