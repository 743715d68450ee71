# Two images: `serve` scores images over HTTP (no torch, no MLflow), `train` trains, evaluates and registers.
#   deploy/build-image serve          or: docker build --target serve -t hilum-serve .
# BASE: any Debian with Python 3.11 and its venv module.
# Wheels from a folder of yours, before the index's: --build-context wheels=/path/of/wheels
# Torch without CUDA from an index of CPU wheels: --build-arg TORCH_INDEX=<its address>
ARG BASE=python:3.11-slim

# ---- empty, unless --build-context wheels=FOLDER takes its place
FROM scratch AS wheels

# ---- the tools that install: nothing of this stage is in a result
FROM ${BASE} AS build
SHELL ["/bin/sh", "-eu", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ROOT_USER_ACTION=ignore \
    PIP_FIND_LINKS=/wheels
# /opt/tools has pip; /opt/hilum, the environment that moves on, has none
RUN python3 -m venv /opt/tools && python3 -m venv --without-pip /opt/hilum
WORKDIR /src
COPY pyproject.toml constraints.txt ./
COPY deploy/requirements.py deploy/

# ---- dependencies before the source, so that a change of code does not install them anew
FROM build AS build-serve
RUN --mount=type=bind,from=wheels,target=/wheels \
  /opt/tools/bin/python deploy/requirements.py pyproject.toml > requirements.txt \
  && /opt/tools/bin/pip --python /opt/hilum/bin/python install -q -c constraints.txt -r requirements.txt
COPY deploy/trim deploy/
# bytecode that does not depend on file times: nothing is compiled at start, where nothing can be written
RUN deploy/trim /opt/hilum/lib/python3*/site-packages \
  && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib
COPY . .
RUN /opt/tools/bin/pip --python /opt/hilum/bin/python install -q --no-deps . \
  && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib \
  && /opt/hilum/bin/python -c 'import imagecodecs, onnxruntime, pyarrow.dataset, pyarrow.parquet, services.cli.main'

FROM build AS build-train
ARG TORCH_INDEX=""
RUN --mount=type=bind,from=wheels,target=/wheels \
  /opt/tools/bin/python deploy/requirements.py pyproject.toml train weights report > requirements.txt \
  && /opt/tools/bin/pip --python /opt/hilum/bin/python install -q -c constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -r requirements.txt
# some packages carry files for newer Pythons, which this one can't compile
RUN python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash /opt/hilum/lib || true
COPY . .
RUN /opt/tools/bin/pip --python /opt/hilum/bin/python install -q --no-deps --compile .

# ---- what both results share: a user without rights, the standard library compiled
FROM ${BASE} AS runtime
SHELL ["/bin/sh", "-eu", "-c"]
# images of Python come without the standard library's bytecode: half a second at every start
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
USER 10001:10001
LABEL org.opencontainers.image.title="hilum" \
      org.opencontainers.image.licenses="Apache-2.0"

# ---- training, evaluation, registration: hilum COMMAND, in a mounted folder
FROM runtime AS train
LABEL org.opencontainers.image.description="hilum: training, evaluation and registration of medical-image classifiers"
COPY --from=build-train /opt/hilum /opt/hilum
USER 0:0
RUN install -d -o 10001 -g 10001 /work
USER 10001:10001
# what ends up in the home folder (the key of the pseudonyms) stays with the work
ENV HOME=/work MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["hilum"]
CMD ["--help"]
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# ---- serving: a model package at /model, one process, port 8080
FROM runtime AS serve
LABEL org.opencontainers.image.description="hilum: scores medical images over HTTP with a model package"
COPY --from=build-serve /opt/hilum /opt/hilum
# HILUM_MODEL: a package folder, or models:/NAME@ALIAS with MLFLOW_TRACKING_URI; each flag of
# `hilum serve` is a HILUM_ variable, and words after the image's name are flags too
ENV HILUM_MODEL=/model HILUM_HOST=0.0.0.0 HILUM_PORT=8080 OMP_NUM_THREADS=1
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as http; http.urlopen('http://127.0.0.1:' + os.environ['HILUM_PORT'] + '/readyz', timeout=3)"]
ENTRYPOINT ["hilum", "serve"]
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
