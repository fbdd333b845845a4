PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test check bench-encodings bench-kernels bench-neurosurgeon bench-plan bench-predict clean

demo: $(INSTALLED)
	$(BIN)/python demo/efficientnet.py

test: check
	$(BIN)/pytest

check: $(INSTALLED)
	$(BIN)/ruff format $(if $(CI),--check) .
	$(BIN)/ruff check .
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/wheel .
	$(BIN)/pyright

bench-encodings: $(INSTALLED)
	$(BIN)/python tests/benchmarks/encoding_times.py

# ARGS: --models, --threads, --seconds, --no-torch, --layers
bench-kernels: $(INSTALLED)
	$(BIN)/python tests/benchmarks/kernels.py $(ARGS)

# ARGS: --profiles
bench-neurosurgeon: $(INSTALLED)
	$(BIN)/python tests/benchmarks/neurosurgeon.py $(ARGS)

# ARGS: --models, --minutes, --profiles
bench-predict: $(INSTALLED)
	$(BIN)/python tests/benchmarks/predict.py $(ARGS)

# ARGS: --most, --patience
bench-plan: $(INSTALLED)
	$(BIN)/python tests/benchmarks/plan.py $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[cuda,dev,torch]'
	touch $@

clean:
	rm -rf .venv build out
