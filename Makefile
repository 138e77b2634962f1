# The two commands to know are `make demo` and `make test`; `make help` lists the rest.
CARGO ?= cargo
CC ?= cc
RELEASE = target/release

.PHONY: help setup lib install demo test test-valgrind test-long test-loom test-tsan test-arm fuzz fuzz-corpus lint features header abi bench accuracy parity-table goldens convert-demo clean

help:
	@echo 'make demo           build, then answer questions about two pictures through the C API'
	@echo 'make install        install headers, libraries, pkg-config and CMake files; PREFIX, DESTDIR and LIBDIR say where'
	@echo 'make test           run all tests'
	@echo 'make test-valgrind  run the C tests under valgrind instead of AddressSanitizer'
	@echo 'make test-long      threads, cancelling, freeing and lack of memory again, for SECONDS and ten times as often'
	@echo 'make test-loom      the thread pool in every order of events (needs the network once)'
	@echo 'make test-tsan      what threads share, under ThreadSanitizer (needs the network once)'
	@echo 'make test-arm       kernels and answers as 64-bit ARM code, in an emulator (needs the network once)'
	@echo 'make fuzz           run a fuzz target with libFuzzer; TARGET and SECONDS say which and how long (docs/testing.md)'
	@echo 'make fuzz-corpus    keep what TARGET found in fuzz/corpus'
	@echo 'make lint           formatting and clippy'
	@echo 'make features       build and test with each picture format alone, and with none'
	@echo 'make header         write include/tinygptv.h anew from src/ffi'
	@echo 'make abi            record what the header adds to the ABI in abi/'
	@echo 'make bench          measure speed and memory beside llama.cpp, ggml, PyTorch and ONNX Runtime (bench/README.md)'
	@echo 'make accuracy       the accuracy table on 200 fresh scenes, beside the PyTorch reference (needs the network once)'
	@echo 'make parity-table   measure every stage beside PyTorch: the tables of docs/accuracy.md'
	@echo 'make goldens        make tests/golden anew with PyTorch (needs the network once)'
	@echo 'make convert-demo   make assets/demo/*.gguf anew from the demo checkpoint'

setup:
	@sh scripts/setup.sh

# Cargo features of the library, such as FEATURES=jpeg,png; unset for all picture formats.
CHOSEN = $(if $(filter undefined,$(origin FEATURES)),,-p tinygptv --no-default-features --features '$(FEATURES)')

lib: setup
	$(CARGO) build --release $(CHOSEN)

PREFIX ?= /usr/local
LIBDIR ?= lib

install: lib
	@PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' DESTDIR='$(DESTDIR)' BUILD='$(RELEASE)' sh scripts/install.sh

demo: lib
	@mkdir -p target/demo
	$(CC) -std=c99 -O2 -Wall -Wextra -Wpedantic -Iinclude examples/ask.c -o target/demo/ask \
		-L$(RELEASE) -ltinygptv -Wl,-rpath,$(CURDIR)/$(RELEASE)
	@sh scripts/demo.sh target/demo/ask

test: lib
	@bash scripts/test.sh

test-valgrind: lib
	@sh scripts/setup.sh valgrind valgrind
	TGV_TEST_RUNNER=valgrind $(CARGO) test --release --test c_abi

test-long: lib
	TGV_TEST_SECONDS=$(SECONDS) TGV_TEST_ROUNDS_FACTOR=10 $(CARGO) test --release --test c_abi -- --test-threads 1 --nocapture \
		threads cancel one_session two_users log_swap free_ reload allocations_fail

test-loom:
	cd tests/loom && $(CARGO) test --release --target-dir $(CURDIR)/target/loom -- --nocapture

test-tsan:
	@bash scripts/tsan.sh

test-arm: setup
	@bash scripts/test-arm.sh

TARGET ?= c_api
SECONDS ?= 600

fuzz:
	@bash scripts/fuzz.sh run $(TARGET) $(SECONDS)

fuzz-corpus:
	@bash scripts/fuzz.sh pack $(TARGET)

lint: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

features: setup
	@CARGO='$(CARGO)' sh scripts/features.sh

abi: setup
	TGV_UPDATE_ABI=1 $(CARGO) test --release --test abi the_abi_keeps_its_promises

header: setup
	TGV_UPDATE_HEADER=1 $(CARGO) test --release --test header the_committed_header_is_current

bench: lib
	@bash scripts/bench.sh $(BENCH)

accuracy: lib
	@bash scripts/accuracy.sh

parity-table: setup
	TGV_UPDATE_ACCURACY=1 $(CARGO) test --release --test oracle

goldens:
	@bash tests/reference/make_goldens.sh

convert-demo: setup
	@sh scripts/convert-demo.sh

clean:
	$(CARGO) clean
