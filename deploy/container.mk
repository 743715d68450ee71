# Images: what is needed to build them, building them, and the test that runs one.
# Included by the Makefile, which sets BIN and the target `setup`.
TARGET ?= serve

.PHONY: setup-system setup-image-base image lock test-container

setup-system:  ## Debian packages that images are built and run with, and compose.yaml's database (as root)
	@for tool in podman buildah runc iptables mmdebstrap; do \
	  PATH="$$PATH:/usr/sbin:/sbin" command -v $$tool >/dev/null || missing=1; \
	done; \
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing=1; \
	test -z "$$missing" || { \
	  DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=5 update && \
	  DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 install -y \
	    --no-install-recommends podman buildah runc netavark iptables mmdebstrap ca-certificates postgresql; }

setup-image-base: setup-system  ## a base image from Debian's packages, where no image registry is reachable
	deploy/base-image

image:  ## build an image: make image TARGET=serve (or train, tracking)
	deploy/build-image $(TARGET)

lock: setup  ## write deploy/*.lock anew: versions of constraints.txt, hashes of all platforms' files
	UV=$(BIN)/uv deploy/lock

test-container: setup setup-image-base  ## build the served image, run it locked down, score with it; run compose.yaml's parts together
	CI_CONTAINER=1 $(BIN)/python -m pytest -s tests/container
