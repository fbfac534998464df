# syntax=docker/dockerfile:1
# API, courier, sweeper and migrations: everything that needs no model library.
#   docker build -f deploy/api.Dockerfile -t darkroom-api .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG PIP_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
RUN python -m venv /opt/darkroom
# The versions of the lock, as constraints: this image takes a part of it only.
COPY requirements/lock.txt requirements/lock.txt
RUN grep -oE '^[A-Za-z0-9._-]+==[^ ;\\]+' requirements/lock.txt > constraints.txt
COPY pyproject.toml README.md ./
COPY api api
COPY client client
COPY common common
COPY courier courier
COPY deploy deploy
COPY migrations migrations
COPY sweeper sweeper
COPY worker worker
RUN /opt/darkroom/bin/pip install ${PIP_ARGS} -c constraints.txt ".[api]"

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin darkroom
COPY --from=build /opt/darkroom /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DARKROOM_DATA_DIR=/tmp/darkroom \
    DARKROOM_HOST=0.0.0.0 \
    DARKROOM_PORT=8000 \
    DARKROOM_AUTH=keys \
    DARKROOM_LOG_FORMAT=json
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as web; web.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["darkroom", "api"]
