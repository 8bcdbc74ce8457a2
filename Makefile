# Two commands for a user, `make demo` and `make test`; each makes its own virtual environment first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
INSTALLED := $(VENV)/.installed
MDS := .venv-mds

# One at a time: environments are set up while system packages are installed.
APT := flock /tmp/vitstream-apt.lock apt-get

.PHONY: demo results test ready soak fast lint slurm browser clean

demo: $(INSTALLED)  ## the whole way of a sample, on real images, in minutes
	@$(VENV)/bin/python -m demo.run

results: $(INSTALLED)  ## what docs/results.md shows: four small networks, about an hour; goes on where it was stopped
	@for name in digits-vit digits-bit drawn-vit drawn-bit; do $(VENV)/bin/python -m demo.results $$name || exit; done

test:  ## everything
	@$(MAKE) --no-print-directory -j 3 ready
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

ready: $(INSTALLED) $(MDS)/.installed slurm browser lint  ## what the tests need, side by side

soak: $(INSTALLED)  ## the full fault matrices, hours; goes on where it was stopped: make soak SOAK="--faults prep-kills=20"
	$(VENV)/bin/python -m tests.soak $(SOAK)

fast: $(INSTALLED)  ## the inner loop: no process groups, no subprocesses
	$(VENV)/bin/python -m pytest -m fast

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

slurm:  ## a SLURM for tests/slurm, with its accounting, where there is none and it can be had
	@PATH=$$PATH:/usr/sbin; for program in sbatch slurmdbd mariadbd shellcheck; do \
	  command -v $$program >/dev/null || missing="$$missing $$program"; done; [ -z "$$missing" ] || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && $(APT) update -qq && $(APT) install -y -qq \
	  --no-install-recommends slurm-wlm munge slurmdbd mariadb-server shellcheck; } >/dev/null 2>&1 || \
	  echo "not here, and cannot be installed:$$missing; tests/slurm will be skipped, or parts of it"

browser:  ## a Chromium for tests/data_prep/card, where there is none and it can be had
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && \
	  command -v apt-get >/dev/null && $(APT) update -qq && $(APT) install -y -qq --no-install-recommends chromium; \
	  } >/dev/null 2>&1 || echo "Chromium is not here, and cannot be installed: pages will not be looked at"

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "vitstream needs Python 3.11 or later; $(PYTHON) is older. Name another: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV): 2 GB or more, a few minutes, once."
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "python venv is missing: install python3-venv"; exit 1; }; \
	  $(APT) update -qq && $(APT) install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); }
	@$(VENV)/bin/python -m pip install --quiet --upgrade pip
	@$(VENV)/bin/python -m pip install --quiet -e '.[demo,test]'
	@touch $@

$(MDS)/.installed: tests/environments/mds.sh | $(INSTALLED)
	@echo "Setting up $(MDS), for the tests of the extra [mds]: a few minutes, once."
	@tests/environments/mds.sh "$(PYTHON)" $(MDS) $(VENV) || echo "$(MDS) cannot be set up: its tests will be skipped"

clean:
	rm -rf $(VENV) $(MDS) demo-output results-output soak-output .pytest_cache .ruff_cache .hypothesis build dist
