# sidekick alone in an image:
#
#   docker build --tag sidekick .
#   docker run --network host --pid=host --volume /var/run/docker.sock:/var/run/docker.sock \
#       sidekick announce redis1 --key /services/redis/redis@1 --host "$(hostname)"
#
# --pid=host: it sees the container's process end, so that the key goes at the death and not at the engine's event, some 25 ms later.
#
# The agent with its HAProxy:
#
#   docker build --target agent --tag sidekick-agent .
#   docker run -p 80:80 --name discovery-agent sidekick-agent --bind redis=:80 --etcd-endpoints http://10.0.0.11:2379
#
# Where no registry is reachable, BUILDER and AGENT_BASE name images that are there already. BUILDER needs cargo (1.88
# or later), a C compiler with glibc 2.34 or later, and protoc with its .proto files; AGENT_BASE needs haproxy (2.6 or
# later, in /usr/sbin or /usr/local/sbin) and a user of that name. Or both have apt, to install what is missing with.
ARG BUILDER=rust:1-bookworm
ARG AGENT_BASE=debian:bookworm-slim
FROM ${BUILDER} AS build
RUN command -v protoc >/dev/null || { \
        apt-get update && apt-get install --yes --no-install-recommends protobuf-compiler libprotobuf-dev; }
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
# A member of the workspace: cargo reads what it is made of, and builds nothing of it.
COPY tests/harness/Cargo.toml tests/harness/
COPY src src
# Static with glibc rather than musl: no second target to fetch, the same code on amd64 and arm64, and the resolver that
# the rest of the machine has. Since 2.34 glibc's static getaddrinfo reads /etc/hosts and asks DNS without loading
# anything. --target, because with it the flags stay away from build scripts and procedural macros.
RUN target=$(rustc -vV | sed -n 's/^host: //p') && \
    RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --release --target "$target" && \
    mkdir -p /image/etc/ssl/certs && \
    cp "target/$target/release/sidekick" /image/ && \
    cp -L /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ && \
    echo 'hosts: files dns' >/image/etc/nsswitch.conf && \
    if ldd /image/sidekick | grep '=>'; then echo 'not static' >&2; exit 1; fi

FROM ${AGENT_BASE} AS agent
USER root
RUN PATH=$PATH:/usr/sbin:/usr/local/sbin; command -v haproxy >/dev/null || { \
        apt-get update && apt-get install --yes --no-install-recommends haproxy && rm -rf /var/lib/apt/lists/*; }
# The last configuration lies there, and with it HAProxy starts where etcd doesn't answer: a volume outlasts the container.
# For any user: a tmpfs in its place has this mode, and is root's.
RUN mkdir --mode=1777 /var/lib/sidekick
COPY --from=build /image/sidekick /usr/local/bin/
COPY --from=build /image/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
# Docker lets everybody in a container listen below 1024 (20.10 and later), so nothing here needs root.
USER haproxy
STOPSIGNAL SIGTERM
# Asks where SIDEKICK_LISTEN is set, and else is content: docs/observing.md.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["/usr/local/bin/sidekick", "healthcheck", "--if-listening"]
ENTRYPOINT ["/usr/local/bin/sidekick", "agent"]

# The last one, and so what is built if nothing is said.
FROM scratch AS sidekick
COPY --from=build /image/ /
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["/sidekick", "healthcheck", "--if-listening"]
ENTRYPOINT ["/sidekick"]
