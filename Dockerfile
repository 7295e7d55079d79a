# docker build -t udp-fanout:latest .          (or podman, or buildah; k8s/build-push.sh makes both architectures)
#
# One base, two stages: compilers make the BPF object, the bundle and raw-socket in the first; the last has only what
# runs. Node comes from npm too, in the version that package-lock.json pins by its hash.

# The base is pinned by its date: such tags of Debian's do not move.
ARG BASE=docker.io/library/debian:trixie-20260918-slim

# Makes an image of either architecture on either. k8s/build-push.sh adds --platform=$BUILDPLATFORM here, since npm and
# compilers are slow under emulation, and crash; a plain build is the machine's own, and old builders know no such word.
FROM ${BASE} AS build
ARG TARGETARCH
# Debian's npm cannot fetch another architecture's packages, but it fetches one that can.
ARG NPM=11.6.2
RUN set -eu; \
    case "${TARGETARCH:=$(dpkg --print-architecture)}" in \
      amd64) echo cpu=x64 gnu=x86_64-linux-gnu compiler=g++-x86-64-linux-gnu ;; \
      arm64) echo cpu=arm64 gnu=aarch64-linux-gnu compiler=g++-aarch64-linux-gnu ;; \
      *) echo "no image for $TARGETARCH: want amd64 or arm64" >&2; exit 1 ;; \
    esac > /target.env; \
    . /target.env; \
    apt-get update -qq; \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      ca-certificates clang libbpf-dev libc6-dev linux-libc-dev llvm make npm python3 "$compiler" >/dev/null; \
    npm install --global --loglevel=error "npm@$NPM"
WORKDIR /build
COPY package.json package-lock.json ./
# Once for this machine, to build with, and once for the image's architecture: koffi, raw-socket, Node.
RUN set -eu; . /target.env; \
    install="npm ci --ignore-scripts --no-audit --no-fund --loglevel=error"; \
    $install; \
    mkdir /target; cp package.json package-lock.json /target; cd /target; \
    $install --omit=dev --os=linux --cpu="$cpu" --libc=glibc; \
    cd node_modules/raw-socket; \
    export CXX="$gnu-g++" npm_config_nodedir="/target/node_modules/node-linux-$cpu"; \
    npm exec --offline -c "node-gyp rebuild --silent --arch=$cpu"
COPY . .
RUN node setup/build.mjs
# Everything of ours in the image, each at its place. Debian's tcpdump wants to become another user, which the pod's
# capabilities do not allow; "-Z root" has it stay who it is.
RUN set -eu; . /target.env; \
    from=/target/node_modules; app=/image/opt/udp-fanout; to=$app/node_modules; \
    mkdir -p /image/usr/local/bin /image/etc/udp-fanout "$to/@koromix" "$to/raw-socket/build/Release"; \
    cp "$from/node-linux-$cpu/bin/node" /image/usr/local/bin; \
    printf '#!/bin/sh\nexec node --disable-sigusr1 /opt/udp-fanout/dist/udp-fanout.js "$@"\n' > /image/usr/local/bin/udp-fanout; \
    printf '#!/bin/sh\nexec /usr/bin/tcpdump -Z root "$@"\n' > /image/usr/local/bin/tcpdump; \
    chmod 755 /image/usr/local/bin/*; \
    cp -r LICENSE package.json dist "$app"; \
    cp -r "$from/koffi" "$to"; \
    cp -r "$from/@koromix/koffi-linux-$cpu" "$to/@koromix"; \
    cp "$from/raw-socket/package.json" "$from/raw-socket/index.js" "$to/raw-socket"; \
    cp "$from/raw-socket/build/Release/raw.node" "$to/raw-socket/build/Release"

FROM ${BASE}
# The tools are those of the guide's troubleshooting; libbpf and libstdc++ are the agent's and Node's.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      bpftool iproute2 iputils-ping libbpf1 libstdc++6 tcpdump >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old /var/log/*
COPY --from=build /image /
ENV NODE_ENV=production
# After all that is large, so that another version is only another label.
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="udp-fanout" \
      org.opencontainers.image.description="Spreads the UDP datagrams that reach a node over live receivers: one each, in turn, source intact, in the kernel" \
      org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"
# Root without capabilities but those that the pod adds: attaching programs needs them, and they come to root alone.
USER 0
ENTRYPOINT ["udp-fanout"]
CMD ["--config", "/etc/udp-fanout/config.yaml"]
