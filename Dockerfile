# One node of the cluster. Build: `docker build -t aip-cluster .`; run: `docker run -p 5000:5000 aip-cluster`.
#
# It runs as a numeric user without rights, on a read-only root file system (`--read-only`), and writes nothing to disk.
# Settings are `AIP_*` variables or flags: docs/SETTINGS.md.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# A package index of your own: pip reads these, in this stage alone. Without a value they are not set.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CERT
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.lock requirements/node.lock ./requirements/
# What a node can use (a model as planner, one node without any Redis, traces), at the versions and with the hashes of
# the lock. The environment has no pip and is never written to again: it is compiled here, once. Every dependency comes
# as a wheel, so no compiler is needed in this stage either.
RUN python -m venv --without-pip /opt/aip \
    && pip --python /opt/aip/bin/python install --require-hashes --only-binary=:all: --compile -r requirements/node.lock \
    && pip install --require-hashes --only-binary=:all: -r requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY aip_cluster ./aip_cluster
COPY shared_state ./shared_state
COPY node ./node
COPY loadbalancer ./loadbalancer
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist ./aip_cluster . \
    && pip --python /opt/aip/bin/python install --no-index --no-deps --compile /dist/*.whl

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="aip-cluster" \
      org.opencontainers.image.description="A node of AIP Cluster, a horizontally scalable agent server" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The image's own pip is of no use to a node, and of some to an intruder.
RUN pip uninstall --yes --root-user-action=ignore pip \
    && rm -rf /usr/local/lib/python3.*/ensurepip
COPY --from=build /opt/aip /opt/aip
ENV PATH=/opt/aip/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AIP_LOG_FORMAT=json
WORKDIR /
# A number: Kubernetes can tell that it is not root only from one.
USER 10001:10001
# 5000: REST and sockets; 9464: metrics, where AIP_METRICS_PORT says so.
EXPOSE 5000 9464
# A drain, then the end: `docker stop --time 150`.
STOPSIGNAL SIGTERM
# Liveness only: a Redis that is away must not have every node replaced.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["aipctl", "live"]
ENTRYPOINT ["aip-node"]
