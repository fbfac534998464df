# syntax=docker/dockerfile:1
# A worker, for processors (target cpu) or for NVIDIA GPUs (target cuda):
#   docker build -f deploy/worker.Dockerfile --target cuda -t darkroom-worker:cuda .
#   docker build -f deploy/worker.Dockerfile --target cpu --build-arg TORCH_ARGS="…" -t darkroom-worker:cpu .
# TORCH_ARGS are options of pip for another build of torch. Without any, pip takes the default one, which on Linux
# carries the CUDA libraries: right for both targets, but several gigabytes more than a processor needs.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG PIP_ARGS=""
ARG TORCH_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/darkroom
COPY requirements requirements
RUN grep -oE '^[A-Za-z0-9._-]+==[^ ;\\]+' requirements/lock.txt > constraints.txt
RUN /opt/darkroom/bin/pip install ${PIP_ARGS} ${TORCH_ARGS} -c constraints.txt -r requirements/torch.txt
COPY pyproject.toml README.md ./
COPY api api
COPY client client
COPY common common
COPY courier courier
COPY deploy deploy
COPY migrations migrations
COPY sweeper sweeper
COPY worker worker
RUN /opt/darkroom/bin/pip install ${PIP_ARGS} -c constraints.txt ".[worker]"

FROM ${PYTHON_IMAGE} AS base
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin darkroom \
 && install --directory --owner 10001 --group 10001 /models
COPY --from=build /opt/darkroom /opt/darkroom
# Weights go to /models, a volume; everything else that is written goes to /tmp.
ENV PATH=/opt/darkroom/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/models/hub \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DARKROOM_DATA_DIR=/tmp/darkroom \
    DARKROOM_LOG_FORMAT=json
WORKDIR /tmp
VOLUME /models
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=15s --start-period=60s --retries=3 CMD ["darkroom", "alive"]

FROM base AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
CMD ["darkroom", "worker", "--all-devices"]

FROM base AS cpu
CMD ["darkroom", "worker", "--device", "cpu"]
