# Two commands matter: `make demo` and `make test`. Both set up .venv first, once; nothing is installed outside it.

PYTHON ?= python3
# Passed to every `pip install`, such as --index-url for a mirror or an extra index with PyTorch's CPU wheels.
PIP_FLAGS ?=
# Passed to the command that a target runs: make demo ARGS="seed=1", make test ARGS="-k tokenizer".
ARGS ?=

BIN := .venv/bin
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-all lint format clean

help:  ## Show this list.
	@echo "sapience: raw text to an assistant, by one command"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18
	@echo
	@echo 'Variables: PYTHON=python3.12  PIP_FLAGS="--extra-index-url …"  ARGS="pretrain.steps=50"'

demo: .venv/.installed  ## Take raw text to an assistant and a report: about 20 minutes on two idle CPU cores.
	$(BIN)/sapience run recipes/demo.yaml $(ARGS)

test: .venv/.installed-test  ## Run the tests, about 15 minutes on two CPU cores.
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: .venv/.installed-test  ## Run the slow tests too.
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.installed-test  ## Check style, format and types.
	@bad=0; for check in "ruff check ." "ruff format --check ." mypy; do \
	  echo "$$check"; $(BIN)/$$check || bad=1; \
	done; exit $$bad

format: .venv/.installed-test  ## Put imports and layout in order.
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .

clean:  ## Remove .venv and caches; runs/ stays.
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sapience tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps say what .venv holds; they are made anew when what should be in it changes.
.venv/.installed: pyproject.toml constraints.txt
	@$(call install,.)
	@touch $@

.venv/.installed-test: pyproject.toml constraints.txt
	@$(call install,.[test])
	@touch .venv/.installed $@

# $(call install,WHAT): make .venv where there is no working one, then install. The mark .venv/.installing survives an
# interruption, after which a package may be there by half; .venv is then made anew (downloads are in pip's cache).
define install
set -e; \
if [ -e .venv/.installing ]; then echo "The last installation was interrupted: making .venv anew."; rm -rf .venv; fi; \
if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "sapience needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1 || true`. Give another: make PYTHON=python3.12 …" >&2; exit 1; }; \
  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
    echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu install python3-venv, or make .venv with pip in it by other means (uv venv --seed .venv, virtualenv .venv), then give the same command again." >&2; exit 1; }; \
  free=`df -Pk . | awk 'NR == 2 { print int($$4 / 1024) }'`; \
  echo "Setting up .venv: it takes 2 GB of disk with PyTorch's CPU build, up to 8 GB with its CUDA build; $$free MB are free here."; \
  [ "$$free" -ge 2500 ] || { echo "That is too little: free some space, or clone to another disk." >&2; exit 1; }; \
  $(PYTHON) -m venv --clear .venv; \
fi; \
touch .venv/.installing; \
echo "Installing $(1) into .venv (once; the download takes minutes)."; \
$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '$(1)'; \
rm .venv/.installing
endef
