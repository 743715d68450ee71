# The commands of the project. `make demo` and `make test` need nothing but Python 3.11, pip and make.
VENV ?= .venv
PY   ?= $(shell command -v python3.11 || command -v python3)
BIN  := $(VENV)/bin

# where pip looks for local wheels, uv looks too; empty on an ordinary machine
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export UV_LINK_MODE  ?= copy
# an ordinary machine without GPU: make setup TORCH_INDEX=<address of PyTorch's CPU wheels>
UV_TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match,)
# nothing of a run is sent anywhere
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export NO_PROXY := 127.0.0.1,localhost

.DEFAULT_GOAL := help
.PHONY: help setup setup-pacs demo test test-kill test-score-kill test-faults test-load test-fuzz test-ray test-nodes check fix types docs docs-shots bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

setup: $(VENV)/.ready  ## make the environment (.venv; VENV=path shares one)

$(VENV)/.ready: pyproject.toml constraints.txt
	@test -n "$(PY)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q $(UV_TORCH) --python $(BIN)/python -c constraints.txt -e '.[train,weights,report,search,sources,scale,openvino,dev]'
	touch $@

setup-pacs:  ## install what the tests of DICOMweb need (Orthanc, dcmtk): Debian or Ubuntu, as root
	command -v Orthanc > /dev/null && test -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so && command -v dcmdump > /dev/null || \
	  { apt-get -q -o Acquire::Retries=5 update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 install -y \
	      --no-install-recommends orthanc orthanc-dicomweb dcmtk; }

demo: setup  ## the whole road on a drawn cohort: about four minutes after installation
	$(BIN)/hilum demo --out hilum-demo

test: check  ## everything CI runs: contracts, types, style, and the test suite
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not needs_podman and not own_process" tests
	$(BIN)/python -m pytest -m own_process tests/train/test_resume.py tests/tracking/test_runs.py tests/ingest/test_sources.py

test-kill: setup  ## SIGKILL at 20 random moments of an ingestion of 1,000 files
	HILUM_KILLS=20 HILUM_KILL_FILES=1000 $(BIN)/python -m pytest -q -s tests/ingest/test_kill.py

test-score-kill: setup  ## SIGKILL at 20 random moments of a batch of 4,000 files: the same bytes
	HILUM_SCORE_KILLS=20 HILUM_SCORE_KILL_FILES=4000 $(BIN)/python -m pytest -q -s tests/batch/test_batch_resumed.py

test-faults: setup  ## what may go wrong in a training, made to happen: servers, disks, processes, memory
	$(BIN)/python -m pytest -q tests/tracking/test_away.py tests/tracking/test_outbox.py tests/tracking/test_vitals.py tests/train/test_faults.py tests/train/test_resume.py

test-load: setup  ## the service under load and faults: alias changed ten times, workers killed, slow clients
	HILUM_LOAD_SWAPS=10 HILUM_LOAD_SECONDS=600 HILUM_LOAD_KILLS=10 $(BIN)/python -m pytest -q -s tests/services/test_load.py tests/services/test_following.py tests/services/test_receipts_served.py

test-fuzz: setup  ## schemathesis over the interface, 5,000 mutated images, every bomb: no server error, bounded memory
	HILUM_FUZZ=5000 HILUM_FUZZ_EXAMPLES=50 $(BIN)/python -m pytest -q -s tests/services/test_fuzz.py

test-ray: setup  ## one ingestion and one batch on a real Ray of this machine
	HILUM_RAY=1 $(BIN)/python -m pytest -q tests/ingest/test_engines.py tests/batch/test_batch_engines.py

test-nodes: setup  ## one training on two machines, which two network namespaces stand for (root)
	$(BIN)/python -m pytest -q -m two_nodes tests/train

check: setup  ## import contracts, types, style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

fix: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs-shots: setup  ## take the pictures of docs/reviewing-a-run.md anew (needs chromium)
	HILUM_SHOTS=docs/pictures $(BIN)/python -m pytest -q -p no:logging tests/tracking/test_reviewing_in_a_browser.py

docs: setup  ## write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py

bench: setup  ## measure what docs claim: one table per folder of benchmarks/
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[bench]'
	for script in benchmarks/*/run.py; do echo "== $$script"; $(BIN)/python $$script || test $$? = 77 || exit 1; done

clean:  ## remove what make and the demo made
	rm -rf .venv hilum-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis

-include deploy/container.mk
