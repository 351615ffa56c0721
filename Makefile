# Two targets do everything a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := demo-results

.PHONY: demo test lint types unit test-exports test-engines test-gpu arm64 coverage clean
.PHONY: bench bench-evidence bench-accuracy bench-direction bench-latency bench-training bench-validation

demo: $(VENV)/core.stamp
	$(BIN)/shrinkc compress examples/fashion_resnet.onnx \
	    --macs 40% --data examples/fashion_calibration.npz --eval-data examples/fashion_eval.npz \
	    --save-plan $(DEMO)/fashion_resnet.plan.json -o $(DEMO)/fashion_resnet.onnx

test: lint types unit

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/test.stamp
	$(BIN)/mypy

# Two processes of one thread each; a file stays in one of them, so that what its tests share is made once.
unit: $(VENV)/test.stamp
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# A small arm64 system (210 MB, Debian and Ubuntu only); with it, `make test` runs ncnn and MNN on that instruction set, too.
export SHRINKC_ARM64_ROOT ?= $(CURDIR)/.environments/arm64

arm64: $(VENV)/test.stamp
	tools/arm64_root.sh $(SHRINKC_ARM64_ROOT) $(PIP)

# Engines that need environments of their own: LiteRT (0.7 GB, Python 3.12), ExecuTorch (1.8 GB), and onnxruntime-gpu (0.5 GB),
# which must say that there is no card rather than run on the processor.
PYTHON312 ?= python3.12
ENVIRONMENTS := $(CURDIR)/.environments
ENGINES := SHRINKC_LITERT=$(ENVIRONMENTS)/litert/bin/python SHRINKC_EXECUTORCH=$(ENVIRONMENTS)/executorch/bin/python \
    SHRINKC_ONNXRUNTIME_GPU=$(ENVIRONMENTS)/onnxruntime-gpu/bin/python

test-engines: $(VENV)/test.stamp $(ENVIRONMENTS)/litert.stamp $(ENVIRONMENTS)/executorch.stamp $(ENVIRONMENTS)/onnxruntime-gpu.stamp
	$(PIP) install --quiet --constraint constraints-test.txt --editable '.[litert]'
	$(ENGINES) $(BIN)/pytest -m engines

# For a machine with an NVIDIA card.  TensorRT, if it is to be tested, has to be in the environment already.
test-gpu: $(VENV)/test.stamp $(ENVIRONMENTS)/onnxruntime-gpu.stamp
	$(PIP) install --quiet cuda-bindings
	$(ENGINES) $(BIN)/pytest -m gpu -rs

$(ENVIRONMENTS)/litert.stamp:
	@$(PYTHON312) -c '' || { echo 'onnx2tf needs Python 3.12; run: make test-engines PYTHON312=/path/to/python3.12'; exit 1; }
	$(PYTHON312) -m venv $(ENVIRONMENTS)/litert
	$(ENVIRONMENTS)/litert/bin/python -m pip install --quiet onnx2tf==2.6.9
	touch $@

$(ENVIRONMENTS)/executorch.stamp: constraints-test.txt
	$(PYTHON) -m venv $(ENVIRONMENTS)/executorch
	$(ENVIRONMENTS)/executorch/bin/python -m pip install --quiet --constraint constraints-test.txt executorch==1.5.1 '.[torch]'
	touch $@

$(ENVIRONMENTS)/onnxruntime-gpu.stamp:
	$(PYTHON) -m venv $(ENVIRONMENTS)/onnxruntime-gpu
	$(ENVIRONMENTS)/onnxruntime-gpu/bin/python -m pip install --quiet onnxruntime-gpu==1.31.1
	touch $@

# The networks of every family by both exporters; `make test` runs one of every kind.
test-exports: $(VENV)/test.stamp
	$(BIN)/pytest -m slow

# The table of the README: every network exported, compressed and proved (minutes).
coverage: $(VENV)/test.stamp
	$(BIN)/python tools/coverage_table.py

bench: $(VENV)/test.stamp
	$(BIN)/python benchmarks/compile_time.py
	$(BIN)/python benchmarks/scale.py

# What gathering evidence and runs on data cost (a quarter of an hour).
bench-evidence: $(VENV)/test.stamp
	$(BIN)/python benchmarks/evidence.py

# Accuracy without training, of shrinkc and its peers (hours; take up again what was interrupted), and its plot.
PEERS := benchmarks/peers/environments

bench-accuracy: $(VENV)/test.stamp $(PEERS)/peers.stamp
	$(BIN)/python benchmarks/accuracy.py --resume
	$(PEERS)/plot/bin/python benchmarks/plot_accuracy.py

bench-training: $(VENV)/test.stamp
	$(BIN)/python benchmarks/training.py

# On a quiet machine; above a load of one it marks its results contended.
bench-latency: $(VENV)/test.stamp
	$(BIN)/python benchmarks/latency.py
	$(BIN)/python benchmarks/latency_driven.py

bench-direction: $(VENV)/test.stamp
	$(PIP) install --quiet pillow
	$(BIN)/python benchmarks/direction.py

# The demo model and PP-OCR's two on every runtime that is here, of those with environments of their own what `make test-engines`
# made, and what `make arm64` did.
bench-validation: $(VENV)/test.stamp
	$(ENGINES) $(BIN)/python benchmarks/validation.py
	$(BIN)/python benchmarks/readme_tables.py --write

$(PEERS)/peers.stamp: benchmarks/peers/environments.sh constraints-test.txt
	PYTHON=$(PYTHON) benchmarks/peers/environments.sh $(PEERS)
	touch $@

$(VENV)/python.stamp:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "shrinkc needs Python 3.10 or newer; run: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/core.stamp: $(VENV)/python.stamp pyproject.toml
	$(PIP) install --quiet --editable .
	touch $@

# Torch is pinned to the CPU wheel by the constraints file; a free range would bring gigabytes of CUDA.
$(VENV)/test.stamp: $(VENV)/core.stamp pyproject.toml constraints-test.txt
	$(PIP) install --quiet --constraint constraints-test.txt --editable '.[test,lint]'
	$(PIP) install --quiet --no-deps --constraint constraints-test.txt ddddocr rapidocr-onnxruntime silero-vad pnnx
	touch $@

clean:
	rm -rf $(VENV) $(DEMO)
