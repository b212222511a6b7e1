# `make demo` and `make test` need nothing but Python >= 3.11 and pip's registry.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: llama demo test suite lint real bench decide deploy docs clean install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "pip>=25.1"
	$(PIP) -c constraints.txt torch==2.13.0
	$(PIP) -c constraints.txt -e ".[dev]"
	touch $@

WHEELS ?= $(HOME)/.cache/tunery-wheels
LLAMA := --find-links $(WHEELS) --only-binary llama-cpp-python -c constraints.txt -e ".[llama]"

llama: install  ## llama.cpp, which proves GGUF exports: compiled once in about five minutes, the wheel is kept
	mkdir -p $(WHEELS)
	$(PIP) $(LLAMA) || { \
		CMAKE_ARGS="-DGGML_NATIVE=OFF" $(BIN)/python -m pip wheel --disable-pip-version-check --no-deps \
			-c constraints.txt -w $(WHEELS) llama-cpp-python && $(PIP) $(LLAMA); }

demo: install  ## fine-tune smollm2 on the invented shop's questions and compare it with the base model
	$(BIN)/tunery models pull smollm2
	$(BIN)/python scripts/demo.py

test: install lint  ## everything but the common suite of methods
	$(BIN)/tunery models pull smollm2 minilm
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/test_suite.py

suite: install  ## every method with every task on every tiny architecture
	$(BIN)/python -m pytest -q -n auto --dist loadgroup tests/test_suite.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/docs.py --check
	$(BIN)/python scripts/methods.py --check
	$(BIN)/python scripts/results.py --check

docs: install  ## regenerate the tables in the documentation
	$(BIN)/python scripts/docs.py
	$(BIN)/python scripts/methods.py

real: install  ## scores on the real data sets (several hours)
	$(BIN)/tunery models pull minilm smollm2
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python scripts/results.py

bench: install  ## speed and memory beside transformers.Trainer (about an hour)
	$(BIN)/tunery models pull smollm2
	$(BIN)/python benchmarks/sft.py
	$(PIP) -c constraints.txt datasets
	$(BIN)/python benchmarks/data.py
	$(BIN)/python scripts/results.py

decide: install  ## races, plans, searches, prompts, comparisons and curves on real data (about five hours)
	$(BIN)/tunery models pull minilm smollm2
	$(BIN)/python benchmarks/decide_race.py
	$(BIN)/python benchmarks/decide_plan.py
	$(BIN)/python benchmarks/decide_search.py
	$(BIN)/python benchmarks/decide_prompts.py
	$(BIN)/python benchmarks/decide.py coverage
	$(BIN)/python benchmarks/decide.py compare
	$(BIN)/python benchmarks/decide.py curve
	$(BIN)/python scripts/results.py

deploy: install llama  ## serving under load; GGUF files of, and new facts for, a run on the shop's questions (an hour)
	$(BIN)/tunery models pull smollm2
	$(BIN)/python benchmarks/serve.py
	test -d runs/deploy/shop || $(BIN)/python scripts/demo.py run.dir=runs/deploy run.name=shop
	$(BIN)/python benchmarks/gguf_parity.py runs/deploy/shop
	$(BIN)/python benchmarks/continue.py runs/deploy/shop
	$(BIN)/python scripts/results.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info
