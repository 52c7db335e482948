# make demo   install and run the main job: checkpoint -> bundle -> verification -> answer -> short benchmark
# make test   install and run the tests; `make test MARKERS=` includes the slow ones
# make bench  install and run the full benchmark on a TVLT-base bundle; the report is build/demo/bench.html
# make lint   style, types and import layers
# make lint-cpp   format and checks of cpp/; a missing tool is skipped, with the reason
# make docs   build the documentation into build/site; a broken link, anchor or reference is an error

VENV ?= .venv
PYTHON ?= python3
WORK ?= build/demo
CLIP ?= $(WORK)/bouncing_ball.mp4
MARKERS ?= not slow

BIN = $(VENV)/bin
TVLT = $(BIN)/tvlt-deploy

BENCH = $(TVLT) bench $(WORK)/bundle --backend torch --backend onnxruntime --report $(WORK)/bench.html

.PHONY: demo bench bundle test lint lint-cpp docs clean

# torch first and by itself: with it in place nothing else asks for another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[export,cpu,openvino,media,hub,parquet,dev,docs]'
	touch $@

demo: bundle
	$(BIN)/python examples/bouncing_ball.py $(WORK)/bouncing_ball.mp4
	$(TVLT) run $(WORK)/bundle $(CLIP) $(if $(AUDIO),--audio $(AUDIO))
	$(BENCH) --workload image10 --seconds 2

bench: bundle
	$(BENCH)

bundle: $(VENV)/.installed
	$(TVLT) doctor
	$(TVLT) init-checkpoint $(WORK)/checkpoint --seed 0 --force
	$(TVLT) export $(WORK)/checkpoint $(WORK)/bundle --force

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "$(MARKERS)"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-cpp:
	PATH="$(abspath $(BIN)):$$PATH" cpp/lint

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf build $(VENV)
