# Three images: `serve` scores images over HTTP and in batch (no torch, no MLflow), `train` trains, evaluates
# and registers, `tracking` is the MLflow server of compose.yaml.
#   deploy/build-image serve          or: docker build --target serve -t hilum-serve .
# BASE: any Debian with Python 3.11 and its venv module.
# OpenVINO beside ONNX Runtime in `serve`: --build-arg SERVE=serve-openvino
# Wheels from a folder of yours, before the index's: --build-context wheels=/path/of/wheels
# Torch without CUDA from an index of CPU wheels: --build-arg TORCH_INDEX=<its address>
# The same bytes from the same tree: SOURCE_DATE_EPOCH=... deploy/build-image serve
ARG BASE=python:3.11-slim

# ---- empty, unless --build-context wheels=FOLDER takes its place
FROM scratch AS wheels

# ---- what pyproject.toml requires for training: any other change of that file leaves the layers below as they are
FROM ${BASE} AS requirements
WORKDIR /requirements
COPY pyproject.toml deploy/requirements.py ./
RUN python3 requirements.py pyproject.toml train weights report > train.txt

# ---- the tools that install: /opt/tools has pip; /opt/hilum, the environment that moves on, has none
FROM ${BASE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_DEFAULT_TIMEOUT=120 PIP_FIND_LINKS=/wheels
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/hilum
WORKDIR /src

# ---- this project alone, laid over the packages at the end
FROM tools AS project
COPY deploy/build.lock deploy/
RUN --mount=type=bind,from=wheels,target=/wheels \
  /opt/tools/bin/pip install -q --require-hashes -r deploy/build.lock
COPY . .
ARG SOURCE_DATE_EPOCH
# bytecode that does not depend on file times: nothing is compiled at start, where nothing can be written
RUN /opt/tools/bin/pip wheel -q --no-deps --no-build-isolation --wheel-dir /wheel . \
  && /opt/tools/bin/pip --python /opt/hilum/bin/python install -q --no-deps --no-compile /wheel/*.whl \
  && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib

# ---- dependencies: layers that stay the same from one version of the project to the next
FROM tools AS packages-serve
ARG SERVE=serve
COPY deploy/${SERVE}.lock deploy/trim deploy/
RUN --mount=type=bind,from=wheels,target=/wheels \
  /opt/tools/bin/pip --python /opt/hilum/bin/python install -q --no-compile --no-deps --require-hashes -r deploy/${SERVE}.lock \
  && deploy/trim /opt/hilum/lib/python3*/site-packages \
  && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib

FROM tools AS packages-tracking
COPY deploy/tracking.lock deploy/
RUN --mount=type=bind,from=wheels,target=/wheels \
  /opt/tools/bin/pip --python /opt/hilum/bin/python install -q --no-compile --no-deps --require-hashes -r deploy/tracking.lock \
  && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib

FROM tools AS packages-train
ARG TORCH_INDEX=""
COPY constraints.txt ./
COPY --from=requirements /requirements/train.txt ./
# not by a lock with hashes: torch is another file on a machine with CUDA
RUN --mount=type=bind,from=wheels,target=/wheels \
  /opt/tools/bin/pip --python /opt/hilum/bin/python install -q --no-compile -c constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -r train.txt \
  && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib

# ---- what all results share: a user without rights, the standard library compiled, nothing reported to makers
FROM ${BASE} AS runtime
# the day of the user's making stands in /etc/shadow
ARG SOURCE_DATE_EPOCH
# images of Python come without the standard library's bytecode, which would be made anew at every start
RUN groupadd --gid 10001 hilum \
  && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin hilum \
  && python3 -m compileall -q -j 0 -x '/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/hilum/bin:${PATH} \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    MLFLOW_DISABLE_TELEMETRY=true
STOPSIGNAL SIGTERM
LABEL org.opencontainers.image.title="hilum" \
      org.opencontainers.image.licenses="Apache-2.0"

# ---- training, evaluation, registration: hilum COMMAND, in a mounted folder
FROM runtime AS train
LABEL org.opencontainers.image.description="hilum: training, evaluation and registration of medical-image classifiers"
COPY --from=packages-train /opt/hilum /opt/hilum
COPY --from=project /opt/hilum /opt/hilum
RUN install -d -o 10001 -g 10001 /work
# what ends up in the home folder (the key of the pseudonyms) stays with the work
ENV HOME=/work MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["hilum"]
CMD ["--help"]
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- the MLflow server of compose.yaml; the database's password and the store's keys come from the environment
FROM runtime AS tracking
LABEL org.opencontainers.image.description="MLflow's tracking server with PostgreSQL and S3"
COPY --from=packages-tracking /opt/hilum /opt/hilum
USER 10001:10001
WORKDIR /tmp
EXPOSE 5000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import urllib.request as http; http.urlopen('http://127.0.0.1:5000/health', timeout=3)"]
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000", "--workers", "1"]

# ---- what is in the served image, by name, version and licence
FROM runtime AS bill-serve
ARG SERVE=serve
COPY --from=packages-serve /opt/hilum /opt/hilum
COPY --from=project /opt/hilum /opt/hilum
COPY deploy/sbom.py deploy/${SERVE}.lock /bill/
ARG SOURCE_DATE_EPOCH
RUN python /bill/sbom.py "/bill/${SERVE}.lock" /opt/hilum/lib/python3*/site-packages /var/lib/dpkg/status > /bill/sbom.cdx.json

# ---- serving: a model package at /model, receipts (if asked for) at /receipts, port 8080
FROM runtime AS serve
LABEL org.opencontainers.image.description="hilum: scores medical images over HTTP with a model package"
COPY --from=packages-serve /opt/hilum /opt/hilum
COPY --from=project /opt/hilum /opt/hilum
COPY --from=bill-serve /bill/sbom.cdx.json /opt/hilum/share/sbom.cdx.json
# were something missing that serving needs, the build would say so
RUN python -c 'import pyarrow.parquet, pipeline.batch.score, services.inference.app' \
 && install -d -o 10001 -g 10001 /receipts
# HILUM_MODEL: a package folder, or models:/NAME@ALIAS with MLFLOW_TRACKING_URI; each flag of
# `hilum serve` is a HILUM_ variable, and words after the image's name are flags too
ENV HILUM_MODEL=/model HILUM_HOST=0.0.0.0 HILUM_PORT=8080 OMP_NUM_THREADS=1
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, ssl, urllib.request as http; s = 's' * bool(os.environ.get('HILUM_TLS_CERT')); http.urlopen('http' + s + '://127.0.0.1:' + os.environ['HILUM_PORT'] + '/readyz', timeout=3, context=ssl._create_unverified_context() if s else None)"]
ENTRYPOINT ["hilum", "serve"]
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
