# make demo   build, fetch the demo model, write some text
# make test   build, then every check and test
# make abi    the same compiled library under several PyTorch releases
# make amd    every kernel for every AMD architecture: tighten the budget, write docs/isa.md
# make emulated   compiled AMD code, run on the emulator in TINYGRAD_PATH (docs/amd.md)
#
# An active environment that already holds torch is used as it is (a ROCm or CUDA torch, say);
# otherwise .venv is created, with the torch named by TORCH.

TORCH ?= torch==2.13.0
PROMPT ?= The three most important inventions in the history of computing are

PYTHON ?= python3
HAS_TORCH := $(shell $(PYTHON) -c "import importlib.util as u; print(bool(u.find_spec('torch')))" 2>/dev/null)
ifeq ($(HAS_TORCH),True)
PY := $(shell command -v $(PYTHON))
else
PY := $(CURDIR)/.venv/bin/python
endif

STAMPS := build/stamps
EMULATING := tests/emulated tests/tools
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo test lint abi amd emulated clean

demo: $(STAMPS)/demo
	@model=$$($(PY) -m rocmforge_torch.cli.demo_model) && \
	$(PY) -m rocmforge_torch generate -m "$$model" -n 96 -p "$(PROMPT)"

# Emulating AMD code takes long, on one core: it runs beside the other tests and is printed last.
test: lint
	@$(PY) -m pytest $(EMULATING) >build/emulated.log 2>&1 & emulating=$$!; \
	trap 'kill $$emulating' INT TERM; \
	$(PY) -m pytest $(EMULATING:%=--ignore=%); others=$$?; \
	wait $$emulating; emulated=$$?; cat build/emulated.log; \
	[ $$others = 0 ] && [ $$emulated = 0 ]

lint: $(STAMPS)/test
	PATH="$(dir $(PY)):$$PATH" $(PY) -m pre_commit run --all-files

abi: $(STAMPS)/test
	$(PY) -m tools.check_abi

amd: $(STAMPS)/test
	$(PY) -m tools.isa_report --update

emulated: export TINYGRAD_PATH ?= $(wildcard $(CURDIR)/build/amd/tinygrad-emulator)
emulated: $(STAMPS)/test
	$(PY) -m pytest -m emulated tests/emulated

# The kernels are compiled ahead of pip, which would hide ninja's progress; pip finds them done.
$(STAMPS)/kernels: $(SOURCES) | $(STAMPS)/torch
	$(PY) -m pip install -q "setuptools>=77" ninja
	$(PY) setup.py -q build_ext --inplace
	@touch $@

$(STAMPS)/demo: $(STAMPS)/kernels
	$(PY) -m pip install --progress-bar on -e ".[demo]"
	@touch $@

$(STAMPS)/test: $(STAMPS)/kernels
	$(PY) -m pip install --progress-bar on -e ".[demo,dev]"
	@touch $@

$(STAMPS)/torch:
	@command -v $${CXX:-g++} >/dev/null || { echo "A C++17 compiler is needed: install g++."; exit 1; }
ifneq ($(HAS_TORCH),True)
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --progress-bar on "$(TORCH)"
endif
	@mkdir -p $(STAMPS) && touch $@

clean:
	rm -rf build rocmforge_torch/lib/*.so
