PYTHON ?= python3
BIN := .venv/bin
# Touched last: an installation that failed half-way leaves no stamp and is repeated.
INSTALLED := .venv/installed

# Processes that test, one file at a time each.
TESTERS ?= logical

.PHONY: .venv demo test test-gpu cuda-check lint

.venv: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Error: Python 3.11 or newer is needed, '$(PYTHON)' is none (choose another: make PYTHON=python3.12)" >&2; exit 1; }
	@rm -f $@
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/hyperlearn run data/museum --out out/museum
	@echo
	$(BIN)/hyperlearn similar out/museum artist "Claude Monet" --top 8
	@echo
	$(BIN)/hyperlearn query out/museum subject --given artist="Vincent van Gogh" --given decade=1880s --top 8
	@echo
	$(BIN)/hyperlearn query out/museum artist --given medium="oil on canvas" --given decade=1870s --given subject=ballet --top 5
	@echo
	@echo "Next, for example:"
	@echo "  source $(BIN)/activate"
	@echo "  hyperlearn query out/museum movement --given artist=\"Mary Cassatt\""
	@echo "  hyperlearn similar out/museum subject mythology"
	@echo "  hyperlearn report out/museum   # a page about all of it: out/museum/report.html"
	@echo "  hyperlearn run data/museum --out out/museum --scheduler local   # on Dask workers; nothing changed, so nothing to do"
	@echo "  hyperlearn info out/museum"
	@echo "  hyperlearn export out/museum --format tsv --out out/museum-factors"
	@echo "  hyperlearn --help"

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(TESTERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The tests on a GPU, for a machine that has one; elsewhere each says that it is skipped.
test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu -rs

# Compiles the CUDA kernels, where there is nvcc; no GPU is needed.
cuda-check: $(INSTALLED)
	$(BIN)/python -m tests.cuda.check

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
