#!/usr/bin/env bash
# Compiles requirements.txt for the root, every system and every job with an environment of its own:
# scripts/lock.sh [--upgrade]
#
# Out: one `name==version ; markers` a line, for Linux and macOS, Python 3.11 and 3.12; no addresses,
# no hashes, no paths. Versions that stand in the old file are kept unless --upgrade is given.
# mlsd itself is left out (set-up installs it from the tree), and so are the CUDA libraries that torch
# lists on Linux: everything here runs on a CPU build.
set -euo pipefail

cd "$(dirname "$0")/.."
uv="$(command -v uv || echo .tools/bin/uv)"
"$uv" --version >/dev/null || { echo "lock: run make setup first, it brings uv" >&2; exit 1; }

# A CPU build of torch in PIP_FIND_LINKS is resolved in place of the one on the index.
overrides="$(mktemp)"
trap 'rm -f "$overrides"' EXIT
for place in ${PIP_FIND_LINKS:-}; do
  wheel="$(ls "$place"/torch-*+cpu-*.whl 2>/dev/null | sort | tail -n 1)" || true
  if [ -n "$wheel" ]; then
    basename "$wheel" | sed 's/^torch-\([^-]*\)-.*/torch==\1/' >"$overrides"
    find_links="$place"
  fi
done

compile() { # compile FOLDER EXTRAS...
  local folder="$1"
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header \
    --no-emit-package mlsd --override "$overrides" ${find_links:+--find-links "$find_links"} \
    ${upgrade:+--upgrade} "$@" --output-file "$folder/requirements.txt" "$folder/pyproject.toml"
  # Keep requirement lines only; drop the local part of versions, and torch's CUDA libraries.
  sed -E -e '/^[A-Za-z0-9]/!d' -e '/^(nvidia-|cuda-|triton==)/d' -e 's/==([^+ ]+)\+[A-Za-z0-9.]+/==\1/' \
    "$folder/requirements.txt" >"$folder/requirements.txt.new"
  mv "$folder/requirements.txt.new" "$folder/requirements.txt"
  echo "lock: $folder/requirements.txt, $(wc -l <"$folder/requirements.txt" | tr -d ' ') packages"
}

upgrade=""
[ "${1:-}" != "--upgrade" ] || upgrade=yes
compile . --all-extras
for project in */*/pyproject.toml */*/*/pyproject.toml; do
  case "$project" in artifacts/*) continue ;; esac # the site has a page of that name
  compile "$(dirname "$project")" --all-extras
done
