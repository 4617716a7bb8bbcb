# make demo    installs into .venv and answers questions about the pictures in examples/images
# make test    installs what the tests need, then runs them all
# make test-cpp  the C++ unit tests alone, those of the kernels also on older CPUs if qemu-x86_64 is installed
# make arm-test  compiles the programs for aarch64 and tests them on emulated CPUs; installs what it needs if root
# make arm-count  counts instructions on emulated CPUs, ours beside llama.cpp's; takes long
# make sanitize  the C++ unit tests under the address and undefined-behaviour sanitizers
# make valgrind  the kernels' C++ unit tests under valgrind; installs it if root
# make lint    ruff, mypy, clang-format
# make stock   builds llama.cpp's own programs, which the following compare with: minutes, once
# make pairs   tiny pairs of llama.cpp's dialects: our answers beside llama-mtmd-cli's
# make bench   measures and writes docs/benchmarks.md: minutes, on a quiet machine; STOCK=DIR: programs built elsewhere
# make bench-quick  the README's figures on this machine; the models are made first, by make bench-models
# make bench-peers  encoder and LLM beside llama.cpp, PyTorch, OpenVINO for docs/performance.md; on a quiet machine.
#                   PEERS=--append adds a second run's figures to the first one's
# make format  what ruff and clang-format can put right by themselves
PYTHON ?= python3
VENV ?= .venv
# The pin keeps CI on one PyTorch. On Linux PyPI's build brings CUDA along; PyTorch's own CPU index is smaller:
#   make test TORCH="torch==2.13.0 --index-url <PyTorch's CPU index>"
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LLAMA := $(shell sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' pyproject.toml)
BUILD_SOURCES := pyproject.toml CMakeLists.txt $(shell find cmake cpp convert -name '*.cmake' -o -name '*.cpp' -o -name '*.h' -o -name '*.py')
CPP_SOURCES := $(shell find cpp tests/cpp benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.c')
CMAKE := $(BIN)/cmake
CMAKE_PYTHON := -DPython_EXECUTABLE=$(abspath $(BIN)/python)
ARM_BUILD := build/linux-aarch64-static
VALGRIND := valgrind --quiet --error-exitcode=1

.PHONY: demo test build-cpp test-cpp test-fast arm-test arm-count sanitize valgrind lint format stock pairs bench \
  bench-quick bench-models bench-peers install clean

demo: install
	@$(BIN)/python examples/demo.py

install: $(VENV)/.installed

$(VENV)/.venv:
	@$(PYTHON) scripts/toolchain.py
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Compiles llama.cpp: minutes, once.
$(VENV)/.llama: $(VENV)/.venv
	@echo "Compiling $(LLAMA): this takes a few minutes, once."
	$(PIP) install -q "scikit-build-core>=0.10" "cmake>=3.21" ninja $(LLAMA)
	@touch $@

# Without build isolation libbluelm is built against the very llama-cpp-python that it will run with.
$(VENV)/.installed: $(VENV)/.llama $(BUILD_SOURCES)
	$(PIP) install -q --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) install -q $(TORCH)
	$(PIP) install -q --no-build-isolation -e ".[test]"
	@touch $@

$(VENV)/.peers: $(VENV)/.test
	$(PIP) install -q --no-build-isolation -e ".[peers]"
	@touch $@

$(VENV)/.lint: $(VENV)/.installed
	$(PIP) install -q --no-build-isolation -e ".[lint]"
	@touch $@

test: $(VENV)/.test test-cpp
	$(BIN)/python -m pytest

# Against the installed llama-cpp-python: nothing of llama.cpp is compiled again.
build-cpp: $(VENV)/.installed
	$(CMAKE) -G Ninja -B build/cpp -DBLUELM_TESTS=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) $(CMAKE_PYTHON)
	$(CMAKE) --build build/cpp

test-cpp: build-cpp
	$(BIN)/ctest --test-dir build/cpp --output-on-failure

arm-test: $(VENV)/.test
	$(PYTHON) scripts/test_tools.py arm
	@date '+%T cross-compiling'
	$(CMAKE) --preset linux-aarch64-static -DBLUELM_TESTS=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) $(CMAKE_PYTHON)
	$(CMAKE) --build $(ARM_BUILD)
	@date '+%T testing'
	BLUELM_ARM_BUILD=$(abspath $(ARM_BUILD)) $(BIN)/python -m pytest tests/arm --durations=5

arm-count: $(VENV)/.installed
	$(PYTHON) scripts/test_tools.py arm-count
	$(CMAKE) --preset linux-aarch64-static -DBLUELM_COUNT=ON -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) $(CMAKE_PYTHON)
	$(CMAKE) --build $(ARM_BUILD)
	$(BIN)/python benchmarks/arm_count/count.py $(ARM_BUILD)

# libggml and libllama are not instrumented, and Python is not involved: what is found is in libbluelm and the tests.
# Two compilers at a time: an instrumented file takes more memory than others.
sanitize: $(VENV)/.installed
	$(CMAKE) -G Ninja -B build/sanitize -DBLUELM_TESTS=ON -DBLUELM_TOOLS=OFF -DBLUELM_SANITIZE=ON \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) $(CMAKE_PYTHON)
	$(CMAKE) --build build/sanitize --parallel 2
	ASAN_OPTIONS=allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(BIN)/ctest --test-dir build/sanitize --output-on-failure

# valgrind has the CPU of its own that it emulates, with AVX2 and nothing newer; what uses ggml's CPU kernels, built for
# this machine, is left out.
valgrind: build-cpp
	@if ! $(PYTHON) scripts/test_tools.py memory; then echo "skipped: the kernels under valgrind"; else set -e; \
	  for test in test_cpu_level test_encoder_kernels "test_llm_kernels random 2" test_llm_attention; do \
	    echo "valgrind $$test"; $(VALGRIND) build/cpp/tests/$$test; done; fi

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bluelm_gguf convert tests/typing/user_program.py
	$(BIN)/clang-format --dry-run -Werror $(CPP_SOURCES)

$(VENV)/.plot: $(VENV)/.installed
	$(PIP) install -q --no-build-isolation -e ".[plot]"
	@touch $@

STOCK ?= build/stock/bin

stock: build/stock/bin/llama-bench

build/stock/bin/llama-bench: | $(VENV)/.llama
	$(BIN)/python scripts/build_stock.py build/stock --cmake $(CMAKE)

pairs: $(VENV)/.installed $(STOCK)/llama-bench
	$(BIN)/python scripts/compare_mtmd.py --stock $(STOCK) $(DIALECTS)

bench: $(VENV)/.plot $(STOCK)/llama-bench
	$(BIN)/python benchmarks/run.py --stock $(STOCK)

bench-models: $(VENV)/.peers $(STOCK)/llama-bench
	$(BIN)/python benchmarks/run.py --quick --prepare --stock $(STOCK) --models build/peers

bench-quick: bench-models $(VENV)/.plot
	$(BIN)/python benchmarks/run.py --quick --stock $(STOCK) --models build/peers

# What is compared for fidelity is the same in every run.
bench-peers: $(VENV)/.peers $(VENV)/.plot $(STOCK)/llama-bench
	$(BIN)/python benchmarks/peers/encode.py --stock $(STOCK) --models build/peers $(PEERS)
	$(BIN)/python benchmarks/peers/llm.py --stock $(STOCK) --models build/peers $(PEERS)
	$(if $(PEERS),,$(BIN)/python benchmarks/peers/encode.py --fidelity --models build/peers)
	$(BIN)/python benchmarks/run.py --report

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_SOURCES)

clean:
	rm -rf $(VENV) build
