# make help

SAFE := ./bin/safe.sh
TARGET ?= headless
ARGS ?=
# Where `make install` puts the command: a virtual environment of its own in lib/safesh, a link in bin.
PREFIX ?= $(if $(filter 0,$(shell id -u)),/usr/local,$(HOME)/.local)

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## this list
	@echo 'usage: make GOAL [TARGET=$(TARGET)] [ARGS="..."]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r goal text; do \
	  printf '%-12s %s\n' "  $$goal" "$$text"; done

.PHONY: start stop restart status logs kill-all
start: ## run TARGET in this terminal (ARGS=--detach: in the background)
	@$(SAFE) start $(TARGET) $(ARGS)
stop: ## stop TARGET, the whole tree
	@$(SAFE) stop $(TARGET) $(ARGS)
restart: ## stop TARGET, then start it
	@$(SAFE) restart $(TARGET) $(ARGS)
status: ## what runs, who holds it, what it costs
	@$(SAFE) status $(ARGS)
logs: ## what TARGET printed (ARGS=-f: and prints)
	@$(SAFE) logs $(TARGET) $(ARGS)
kill-all: ## end every process of ours, strays too
	@$(SAFE) kill-all $(ARGS)

.PHONY: test lint fix bench
test: ## all tests, from nothing (ARGS="-k word": some)
	@scripts/test.sh $(ARGS)
lint: ## formatting, lint, types, shell scripts, dead code
	@scripts/lint.sh
fix: ## format, and repair what can be repaired
	@scripts/lint.sh --fix
bench: ## measure, as ratios in one run; see docs/benchmarks.md
	@scripts/bootstrap.sh .venv
	@env -u PYTHONDONTWRITEBYTECODE .venv/bin/python scripts/bench.py $(ARGS)

.PHONY: pictures
pictures: ## take the pictures of the terminal in docs/images anew
	@scripts/bootstrap.sh .venv-dev --extras dev
	@.venv-dev/bin/python scripts/pictures.py

.PHONY: faults
faults: ## break it on purpose: campaign, system calls, fuzzing, neighbours, soak, races (ARGS=--quick: minutes)
	@scripts/bootstrap.sh .venv
	@scripts/bootstrap.sh .venv-dev --extras dev
	@env -u PYTHONDONTWRITEBYTECODE .venv-dev/bin/python scripts/faults.py $(ARGS)

.PHONY: install uninstall clean
install: ## install the command `safesh` for you (PREFIX=~/.local; root: /usr/local)
	@rm -rf build
	@mkdir -p '$(PREFIX)/lib' '$(PREFIX)/bin'
	@scripts/bootstrap.sh '$(PREFIX)/lib/safesh' --package --force; status=$$?; rm -rf build; exit $$status
	@ln -sf ../lib/safesh/bin/safesh '$(PREFIX)/bin/safesh'
	@echo 'installed: $(PREFIX)/bin/safesh'
uninstall: ## take it away again
	@rm -rf '$(PREFIX)/lib/safesh' '$(PREFIX)/lib/safesh-lock'
	@rm -f '$(PREFIX)/bin/safesh'
clean: ## remove what was made here: environments, caches, builds
	@rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis supervisor/*.egg-info
	@find bin scripts supervisor tests -name __pycache__ -type d -prune -exec rm -rf {} +
