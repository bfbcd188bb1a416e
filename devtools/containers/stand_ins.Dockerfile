# What compose.yaml and the Dockerfile take from a registry, made of Debian's packages where no registry is reached.
# Each stage behaves as the image that it stands for, as far as compose.yaml relies on that.
ARG DEBIAN
FROM ${DEBIAN} AS debian

# As the official image: `python` and `pip` on the PATH, and pip may change what is installed. No compiler.
FROM debian AS python
RUN apt-get -q install -y --no-install-recommends python3 python3-venv python-is-python3 \
    && rm /usr/lib/python3*/EXTERNALLY-MANAGED \
    && wheel=$(echo /usr/share/python-wheels/pip-*.whl) \
    && python "$wheel/pip" install --no-index --no-cache-dir --root-user-action=ignore "$wheel"
# The authorities that this machine trusts, one of which may stand before its package index.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt

FROM debian AS redis
RUN apt-get -q install -y --no-install-recommends redis-server \
    && install -d -o redis -g redis /data
USER redis
WORKDIR /data

FROM debian AS nginx
RUN apt-get -q install -y --no-install-recommends nginx-light wget

FROM debian AS prometheus
RUN apt-get -q install -y --no-install-recommends prometheus \
    && install -d -o nobody -g nogroup /prometheus
USER nobody
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]

# Not of compose.yaml: what reads it.
FROM debian AS compose
RUN apt-get -q install -y --no-install-recommends docker-compose
ENTRYPOINT ["docker-compose"]
