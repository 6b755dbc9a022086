#!/usr/bin/env bash
# bootstrap.sh - find a Python that is new enough, then let it make a virtual environment.
#
# Usage: bootstrap.sh VENV [--extras NAME,NAME] [--package] [--force]
#
# VENV is made or renewed so that it has what setup.cfg asks for (see bootstrap.py); nothing happens where it
# has that already. bin/safe.sh calls this on its first start, and whenever setup.cfg was touched.
# $SAFESH_PYTHON names the Python to use; else it is VENV's own, else the first that PATH offers.
set -euo pipefail

(($# > 0)) || {
  sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
}

self=${BASH_SOURCE[0]}
here=.
[[ $self != */* ]] || here=${self%/*}
found=

# A pyenv shim without its version, a wrong architecture, a stub that offers to install something: whatever
# does not answer is not a Python.
version_of() {
  "$1" -E -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null </dev/null
}

try() {
  local version minor
  version=$(version_of "$1") || version=
  if [[ ! $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]]; then
    [[ ! -e $1 ]] || found="$found
    $1 (does not start)"
    return 0
  fi
  minor=${version#*.}
  minor=${minor%%.*}
  if ((${version%%.*} > 3 || (${version%%.*} == 3 && minor >= 11))); then
    shift
    exec "$candidate" -I "$here/bootstrap.py" "$@" 3<&-
  fi
  found="$found
    $1 (is $version)"
}

candidates() {
  local name
  if [[ -n ${SAFESH_PYTHON:-} ]]; then
    # A name or a path; the only candidate, for whoever names one means that one.
    type -P "$SAFESH_PYTHON" || printf '%s\n' "$SAFESH_PYTHON"
    return
  fi
  [[ ! -x $1/bin/python ]] || printf '%s\n' "$1/bin/python"
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    type -aP "$name" || :
  done
  ! type -P uv >/dev/null || uv python find --no-python-downloads '>=3.11' 2>/dev/null || :
}

seen=$'\n'
while IFS= read -r candidate <&3; do
  [[ $seen != *$'\n'"$candidate"$'\n'* ]] || continue
  seen=$seen$candidate$'\n'
  try "$candidate" "$@"
done 3< <(candidates "$1")

printf 'safe.sh: needs Python 3.11 or newer; found %s\n' "${found:-none on PATH}" >&2
if [[ -n ${SAFESH_PYTHON:-} ]]; then
  printf '  next: let SAFESH_PYTHON name one that is, or unset it to search PATH\n' >&2
else
  printf '  next: install one (Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3;\n' >&2
  printf '  macOS: brew install python), or let SAFESH_PYTHON name one that is elsewhere\n' >&2
fi
exit 69 # EX_UNAVAILABLE
