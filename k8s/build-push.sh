#!/usr/bin/env bash
# Builds the image for amd64 and arm64 and pushes it: k8s/build-push.sh --registry registry.example --owner team
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'USAGE'
k8s/build-push.sh [--no-push] [--arm64-only] [--tag T] [--registry R] [--owner O] [--dry-run]

  --registry R   where to push, such as ghcr.io; default: $REGISTRY, else Docker Hub
  --owner O      whose image it is there; default: $OWNER
  --tag T        default: v and the version in package.json
  --arm64-only   for arm64 alone; default: amd64 and arm64
  --no-push      one architecture: into the local image store; both: into dist/udp-fanout-T.tar, for `ctr images import`
  --dry-run      print the command and do nothing

Needs Docker with buildx. For an architecture other than this machine's, emulation has to be there as well, once:
  docker run --privileged --rm tonistiigi/binfmt --install all
USAGE
}

die() {
  printf 'build-push.sh: %s\n' "$1" >&2
  exit 2
}

version=$(sed -n 's/^  "version": "\(.*\)",$/\1/p' package.json)
registry=${REGISTRY:-}
owner=${OWNER:-}
tag=v$version
platforms=linux/amd64,linux/arm64
push=yes
run=yes
while (($# > 0)); do
  case $1 in
    --registry | --owner | --tag)
      [[ -n ${2:-} && $2 != --* ]] || die "$1 wants a value"
      declare "${1#--}=$2"
      shift
      ;;
    --arm64-only) platforms=linux/arm64 ;;
    --no-push) push=no ;;
    --dry-run) run=no ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) die "unknown option $1; --help has all" ;;
  esac
  shift
done
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || die "--tag \"$tag\": want letters, digits, \"_\", \".\" and \"-\""
[[ $push == no || -n $registry$owner ]] || die "push where to? want --registry or --owner, or --no-push"

image=${registry:+${registry%/}/}${owner:+$owner/}udp-fanout:$tag
if [[ $push == yes ]]; then
  output=(--push)
elif [[ $platforms == *,* ]]; then
  output=(--output "type=oci,dest=dist/udp-fanout-$tag.tar")
else
  output=(--load)
fi
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
[[ -z $(git status --porcelain 2>/dev/null) ]] || revision+=-dirty
command=(
  docker buildx build --platform "$platforms" --tag "$image"
  --build-arg "VERSION=$tag" --build-arg "REVISION=$revision"
  --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${output[@]}" --file - .
)
# The first stage runs on this machine's architecture and compiles for the image's. Not in the Dockerfile itself, since
# builders other than BuildKit do not know the word.
dockerfile=$(sed "s/^FROM \(.*\) AS build\$/FROM --platform=\$BUILDPLATFORM \1 AS build/" Dockerfile)

if [[ $run == no ]]; then
  printf '%q ' "${command[@]}"
  printf '< Dockerfile with: %s\n' "$(grep '^FROM .* AS build$' <<<"$dockerfile")"
  exit 0
fi
docker buildx version >/dev/null 2>&1 || die "docker buildx is missing: see docs.docker.com/go/buildx"
mkdir -p dist
# Docker's default builder makes one architecture at a time.
docker buildx inspect udp-fanout >/dev/null 2>&1 || docker buildx create --name udp-fanout --driver docker-container >/dev/null
BUILDX_BUILDER=udp-fanout "${command[@]}" <<<"$dockerfile"
printf '%s\n' "$image"
