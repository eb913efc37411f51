# Two stages: what builds stays behind. Give both an exact digest in your own pipeline: --build-arg PYTHON_IMAGE=…@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
RUN python -m venv /opt/gateway
COPY requirements-nodes.lock ./
RUN /opt/gateway/bin/python -m pip install --require-hashes --only-binary :all: --requirement requirements-nodes.lock
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY adapters adapters
RUN /opt/gateway/bin/python -m pip install --no-deps --no-build-isolation --no-index . \
    && /opt/gateway/bin/python -m pip uninstall --yes setuptools pip \
    && python -m compileall -q /opt/gateway

FROM ${PYTHON_IMAGE}
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_PORT=3000 \
    GATEWAY_DATA_DIR=/data
COPY --from=build /opt/gateway /opt/gateway
# A number, so that an orchestrator can see that it is not root. /data is all that is written.
RUN mkdir /data && chown 10001:10001 /data
USER 10001:10001
VOLUME /data
WORKDIR /data
EXPOSE 3000
STOPSIGNAL SIGTERM
# Any answer below 500 is life: with GATEWAY_ALLOWED_HOSTS set, this one is 421.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['GATEWAY_PORT']), timeout=2); c.request('GET', '/healthz'); sys.exit(c.getresponse().status >= 500)"]
ENTRYPOINT ["coze-gateway"]
CMD ["serve"]
