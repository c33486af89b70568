# One node in a container. Build, then run a cluster of one, or one with a servers file of yours:
#
#   docker build -t kvcluster .        # or make image, which labels it with version and commit
#   docker run --rm -p 127.0.0.1:3331:3331/udp kvcluster
#   docker run --rm -p 127.0.0.1:3331:3331/udp -v ./servers.txt:/srv/kv/servers.txt:ro kvcluster 3331 ./servers.txt
#
# Without the 127.0.0.1 the port is open to whoever reaches the machine, and clients are not authenticated. The file must
# be readable by all. Before Docker 23 a mount's source must be absolute: -v "$PWD/servers.txt:...".
#
# In a file for several machines the lines name the machines, whose addresses a container doesn't have. Either let
# it share the machine's, or say which line it is; the TCP port is for the other nodes:
#
#   docker run --network host -v ./servers.txt:/srv/kv/servers.txt:ro kvcluster 3331 ./servers.txt
#   docker run -p 192.0.2.7:3331:3331/udp -p 192.0.2.7:3331:3331/tcp -e KV_CLUSTER_SECRET \
#       -v ./servers.txt:/srv/kv/servers.txt:ro kvcluster 3331 ./servers.txt --advertise 192.0.2.7:3331
#
# Every option is also a variable: -e KV_MAX_MEMORY=256MiB. Give a container with a memory limit (-m) 32 MiB more
# than --max-memory, for what the kernel keeps for its sockets. `docker stop -t 15` leaves a node the 10 s that it
# takes at most to hand its data over. Its receive buffer is at most the machine's net.core.rmem_max. With another
# port, or with --bind, say --health-cmd as well; with --allow, name 127.0.0.1, where it asks from.
#
# The base image is the very one of this digest, whatever its tag points to by now, and the packages are the very files
# of requirements.lock, so nothing gets in that nobody has chosen; fixes neither. To take a newer base image, put here
# what `docker buildx imagetools inspect python:3.11-slim-trixie` says is its digest; newer packages: `make lock`.
FROM python:3.11.16-slim-trixie@sha256:e41613d42d4891e4930f79523f93f81bbc7632584ec65e36ab055f41a800b41e AS base
WORKDIR /srv/kv

# The compiled core (docs/architecture.md): compiled in a stage of its own, so that the image has no compiler.
FROM base AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
COPY requirements-build.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-build.lock
COPY app/ app/
COPY tools/__init__.py tools/start.py tools/cli.py tools/build_fast.py tools/
RUN python tools/build_fast.py --must

FROM base
COPY requirements.lock ./
# With pip, which nothing needs afterwards.
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock \
    && pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel

COPY app/ app/
COPY --from=build /srv/kv/app/fast/ app/fast/
COPY proto_gen/ proto_gen/
# Of the tools only the one that asks a node, for the health check and for `docker exec`.
COPY tools/__init__.py tools/start.py tools/cli.py tools/kv.py tools/
COPY tools/kv/ tools/kv/
# What the status page leads to.
COPY docs/monitoring.md docs/
COPY servers.txt ./
RUN KV_FAST=on python -c "import app.wire.codec"
# The node runs as a user who owns nothing: compiled here, where it can be written, and readable whatever the
# umask of the checkout was.
RUN python -m compileall -q app proto_gen tools \
    && chmod -R a+rX . \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin kv
# What `make image` says of it.
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="kvcluster" \
      org.opencontainers.image.description="One node of a distributed in-memory key-value store" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# By number, so that an orchestrator can see that it isn't root.
USER 10001:10001

EXPOSE 3331/udp 3331/tcp
# A client gives a request up after five tries and 6.45 s.
HEALTHCHECK --interval=10s --timeout=8s --start-period=5s --retries=2 \
    CMD ["python", "tools/kv.py", "-s", "127.0.0.1:3331", "ping"]

# The exec form: python is process 1 and gets SIGTERM itself.
ENTRYPOINT ["python", "app/main.py"]
CMD ["3331", "servers.txt"]
