#!/usr/bin/env bash
# Builds the virtual environment of one folder: scripts/setup.sh [FOLDER], the repository itself by default.
#
# In:  FOLDER/requirements.txt (versions and markers), FOLDER/pyproject.toml, the root pyproject.toml.
# Out: FOLDER/.venv with exactly those versions; mlsd and the system installed editable, unless
#      the folder packages nothing (its pyproject.toml has no [build-system]).
# A stamp with a checksum of the inputs makes a second call a matter of milliseconds. It is written
# last, so an interrupted call leaves none and the next call starts over.
#
# Needs a Python 3.11 or 3.12. uv is taken from PATH or put into .tools/ with pip.
# Environment: PYTHON (the interpreter to use), PIP_FIND_LINKS (folders with wheels, looked at for a
# CPU build of torch). Runs on bash 3.2 with BSD or GNU tools.
set -euo pipefail

root="$(cd "$(dirname "$0")/.." && pwd -P)"
folder="$(cd "${1:-$root}" && pwd -P)"
name="${folder#"$root"/}"
[ "$folder" = "$root" ] && name="root"
venv="$folder/.venv"
stamp="$venv/.mlsd-setup"
uv_requirement="uv>=0.8,<1"

say() { printf 'setup %s: %s\n' "$name" "$*"; }
die() { printf 'setup %s: error: %s\n' "$name" "$*" >&2; exit 1; }

# Two lines that change with anything the environment is made from, the folder's own place included
# (a virtual environment cannot be moved). The linters' settings are left out: they change often.
fingerprint() {
  {
    cat "$root/scripts/setup.sh" "$folder/requirements.txt"
    awk '/^\[/ { keep = !/^\[+tool\./ || /^\[+tool\.hatch/ } keep' \
      "$root/pyproject.toml" "$folder/pyproject.toml"
  } | cksum
  printf '%s %s\n' "$folder" "${PYTHON:-}"
}

is_current() {
  [ -f "$stamp" ] && [ -x "$venv/bin/python" ] && [ "$(cat "$stamp")" = "$wanted" ]
}

# Several calls at once (make -j, two terminals) take turns. A lock whose owner is gone is removed.
lock="$root/.tools/lock"
take_lock() {
  mkdir -p "$root/.tools"
  local told=""
  until mkdir "$lock" 2>/dev/null; do
    local owner
    owner="$(cat "$lock/pid" 2>/dev/null || true)"
    if [ -n "$owner" ] && ! kill -0 "$owner" 2>/dev/null; then
      rm -rf "$lock"
      continue
    fi
    [ -n "$told" ] || say "waiting for another set-up (process ${owner:-unknown}; lock $lock)"
    told=yes
    sleep 1
  done
  trap 'rm -rf "$lock"' EXIT
  trap 'exit 130' INT TERM
  echo $$ >"$lock/pid"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
      >/dev/null 2>&1; then
      # The interpreter itself, not a version manager's shim.
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
    [ "$candidate" != "${PYTHON:-}" ] || die "PYTHON=$PYTHON is not a Python 3.11 or 3.12"
  done
  die "no Python 3.11 or 3.12 found (looked for python3.11, python3.12, python3, python).
Install one, or name it: make setup PYTHON=path/to/python3.11"
}

# True when "$1" runs and is 0.8 or later (older ones lack options used here).
is_usable_uv() {
  local version major minor
  version="$("$1" --version 2>/dev/null)" || return 1
  version="${version#uv }"
  major="${version%%.*}"
  minor="${version#*.}"
  minor="${minor%%.*}"
  case "$major$minor" in *[!0-9]* | '') return 1 ;; esac
  [ "$major" -gt 0 ] || [ "$minor" -ge 8 ]
}

# Prints the path of a usable uv. pip's --target works without the venv module (which Debian
# packages apart) and on interpreters marked as externally managed.
find_uv() {
  local python="$1" tools="$root/.tools" helper
  if command -v uv >/dev/null 2>&1 && is_usable_uv uv; then
    command -v uv
    return
  fi
  if is_usable_uv "$tools/bin/uv"; then
    echo "$tools/bin/uv"
    return
  fi
  say "installing uv into .tools/" >&2
  for helper in "$python" python3; do
    if "$helper" -m pip install --quiet --disable-pip-version-check --no-user --upgrade \
      --target "$tools" "$uv_requirement" >"$tools/pip.log" 2>&1 && is_usable_uv "$tools/bin/uv"; then
      echo "$tools/bin/uv"
      return
    fi
  done
  if "$python" -m venv "$tools/venv" >>"$tools/pip.log" 2>&1 \
    && "$tools/venv/bin/python" -m pip install --quiet "$uv_requirement" >>"$tools/pip.log" 2>&1; then
    mkdir -p "$tools/bin"
    ln -sf "$tools/venv/bin/uv" "$tools/bin/uv"
    echo "$tools/bin/uv"
    return
  fi
  tail -n 5 "$tools/pip.log" >&2
  die "could not install uv with $python: the lines above are pip's (all of them: $tools/pip.log).
If pip is missing (Debian and Ubuntu package it apart): sudo apt-get install python3-pip
Otherwise install uv by any other way so that it is on PATH, and run make again."
}

# A folder of PIP_FIND_LINKS that holds torch "$1" for this interpreter, or nothing.
folder_with_torch() {
  local tag place
  tag="$("$venv/bin/python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')"
  for place in ${PIP_FIND_LINKS:-}; do
    place="${place#file://}"
    if [ -d "$place" ] && ls "$place/torch-$1"[+-]*"$tag-"*.whl >/dev/null 2>&1; then
      echo "$place"
      return
    fi
  done
}

# torch goes first: the default index would bring several GB of CUDA libraries with it.
install_torch() {
  local version place
  version="$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' "$folder/requirements.txt")"
  [ -n "$version" ] || return 0
  place="$(folder_with_torch "$version")"
  if [ -n "$place" ] \
    && "$uv" pip install --quiet --no-deps --no-index --find-links "$place" "torch==$version"; then
    return
  fi
  "$uv" pip install --quiet --no-deps --torch-backend=cpu "torch==$version" \
    || die "could not fetch the CPU build of torch $version. Behind a closed network, put its wheel
into a folder and name the folder in PIP_FIND_LINKS."
}

# What the user told pip holds for uv too.
export_pip_settings() {
  [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$PIP_CERT}"
  [ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$PIP_INDEX_URL}"
}

build() {
  local python uv
  python="$(find_python)"
  export_pip_settings
  uv="$(find_uv "$python")"
  export VIRTUAL_ENV="$venv"
  say "building ${venv#"$root"/} with $("$python" --version) (a first time downloads, later ones do not)"
  rm -f "$stamp"
  "$uv" venv --quiet --clear --python "$python" "$venv"
  install_torch
  # Compiled once here, every later start is seconds faster (also where Python may not write .pyc).
  "$uv" pip install --quiet --no-deps --compile-bytecode --requirement "$folder/requirements.txt"
  # A folder that packages nothing (a Spark job) gets its requirements and no more.
  if grep -q '^\[build-system\]' "$folder/pyproject.toml"; then
    "$uv" pip install --quiet --no-deps --editable "$root"
    [ "$folder" = "$root" ] || "$uv" pip install --quiet --no-deps --editable "$folder"
  fi
  printf '%s\n' "$wanted" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

[ -f "$folder/requirements.txt" ] || die "$folder/requirements.txt is missing; scripts/lock.sh writes it"
wanted="$(fingerprint)"
if is_current; then exit 0; fi
take_lock
if is_current; then exit 0; fi
started=$SECONDS
build
say "ready after $((SECONDS - started)) s"
