# Every target does its own set-up in .venv; `make` alone lists them.
# One thread: two are up to a hundred times slower on a busy machine, and round differently.
export OMP_NUM_THREADS := 1
export PYTHONDONTWRITEBYTECODE := 1
export PYTHON
SHELL := /bin/bash
VENV := .venv/bin/python

.PHONY: help book test check execute serve lint lock test-oldest test-newest test-colab coverage \
	bench figure1 scale inception fresh clean setup-book setup-test
help:
	@echo "make book      build the book from the stored outputs"
	@echo "make test      run every notebook and every test"
	@echo "make check     style, types and the quick tests, for people at work"
	@echo "make execute   re-run the notebooks in place (NOTEBOOKS=book/03_backward.ipynb for one)"
	@echo "make serve     build the book and serve it on http://localhost:8000"
	@echo "make bench     measure speeds again and store them as records"
	@echo "make figure1   train Figure 1's networks again and store them as records (about two hours)"
	@echo "make scale     train chapter 07's networks again and store them as a record (a quarter of an hour)"
	@echo "make inception train chapter 11's networks again and store them as records (hours)"
	@echo "make fresh     measure everything again with other seeds and fewer looks: the record fresh"
	@echo "make lint      check the style and the types of the code"
	@echo "make lock      compile the pinned versions (UPGRADE=all or UPGRADE='numpy ruff' moves them)"
	@echo "make coverage  run the unit tests and say which lines they do not reach"
	@echo "make test-oldest test-newest test-colab   the same tests with other versions (gigabytes)"
	@echo "make clean     remove the built book"

setup-book:
	@scripts/setup.sh book

setup-test: setup-book
	@scripts/setup.sh test

book: setup-book
	@PYTHONPATH=. $(VENV) scripts/claims.py
	@mkdir -p _build && PYTHONPATH=. .venv/bin/jupyter-book build . --all -W -n --keep-going --quiet \
		>_build/build.log 2>&1 || { cat _build/build.log; exit 1; }
	@echo "The book is built; open $(CURDIR)/_build/html/index.html"

test: setup-test
	@$(VENV) -m pytest --nbval -n 2 --dist loadfile tests book

execute: setup-test
	@$(VENV) scripts/execute.py $(NOTEBOOKS) && $(VENV) scripts/claims.py && $(VENV) scripts/api.py

serve: book
	@cd _build/html && ../../$(VENV) -m http.server 8000

check: lint
	@$(VENV) -m pytest -q -n 2 --dist loadfile -m "not slow" tests

lint: setup-test
	@$(VENV) -m ruff check --quiet . && $(VENV) -m ruff format --quiet --check . && $(VENV) -m mypy

lock:
	@scripts/lock.sh

coverage: setup-test
	@$(VENV) -m pytest -q --cov=bn_helpers --cov-report=term-missing:skip-covered tests

test-oldest:
	@$(or $(PYTHON),python3.11) scripts/versions.py oldest

test-newest test-colab:
	@$(or $(PYTHON),python3.13) scripts/versions.py $(@:test-%=%)

bench: setup-test
	@$(VENV) scripts/bench.py

figure1: setup-test
	@$(VENV) scripts/figure1.py grid && $(VENV) scripts/figure1.py best && $(VENV) scripts/figure1.py runs

scale: setup-test
	@$(VENV) scripts/scale.py

SCALE ?= cpu
WORKERS ?= $(if $(filter gpu,$(SCALE)),12,1)
inception: setup-test
	@$(VENV) scripts/inception.py --scale $(SCALE) --workers $(WORKERS)

fresh: setup-test
	@$(VENV) scripts/fresh.py --workers 2

clean:
	@rm -rf _build
