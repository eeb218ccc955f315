# sidekick alone in an image:
#
#   docker build --tag sidekick .
#   docker run --network host --volume /var/run/docker.sock:/var/run/docker.sock \
#       sidekick announce redis1 --key /services/redis/redis@1 --host "$(hostname)"
#
# Where no registry is reachable, BUILDER names an image that is there already. It needs cargo (1.88 or later), a C
# compiler with glibc 2.34 or later, and protoc with its .proto files; or apt to install the latter with.
ARG BUILDER=rust:1-bookworm
FROM ${BUILDER} AS build
RUN command -v protoc >/dev/null || { \
        apt-get update && apt-get install --yes --no-install-recommends protobuf-compiler libprotobuf-dev; }
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
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

FROM scratch
COPY --from=build /image/ /
ENTRYPOINT ["/sidekick"]
