#!/usr/bin/env bash
# safe.sh - run it once, see all of it, stop all of it.
#
# Usage: safe.sh VERB [ARGUMENT]...        safe.sh --help lists the verbs
#
# Finds the checkout it belongs to (through symlinks, from anywhere, along PATH), makes the virtual
# environment on the first call, then becomes Python: one exec, no process stays behind.
#
# Environment:
#   SAFESH_VENV      the virtual environment (default: .venv in the checkout)
#   SAFESH_PYTHON    the Python >= 3.11 to make it with (default: the first that PATH offers)
#
# A warm call forks nothing (one readlink for every symlink it was called through, one subshell where the way to the
# checkout has a '..') and changes neither the working directory nor the environment. Runs on bash 3.2 and later.
set -euo pipefail

die() {
  printf 'safe.sh: %s\n  %s\n' "$1" "$2" >&2
  exit 69 # EX_UNAVAILABLE: not one of the codes by which status, health or start say something
}

# Without a slash, bash found us in the working directory.
self=${BASH_SOURCE[0]:-$0}
[[ $self == */* ]] || self=./$self
[[ $self == /* ]] || self=${PWD%/}/${self#./}
while [[ -L $self ]]; do
  link=$(readlink "$self")
  [[ $link == /* ]] || link=${self%/*}/$link
  self=$link
done

# Never a cd: it would need a fork to keep the caller's working directory, and CDPATH would have its say.
# The kernel follows '..' through symlinked folders; only a plain 'bin' may be cut off as text.
root=${self%/*}
if [[ $root == */bin && ! -L $root ]]; then
  root=${root%/bin}
else
  root=$root/..
fi
# Python shortens "bin/.." as text, and where bin is a link would look for everything beside it.
[[ $root/ != */../* ]] || root=$(CDPATH='' cd -P -- "$root" && pwd)
main=$root/supervisor/safesh/__main__.py
[[ -f $main ]] || die "$self stands outside of its checkout: there is no $main" \
  'next: call the one in the checkout, or put a symlink to it here instead of a copy'

venv=${SAFESH_VENV:-$root/.venv}
[[ $venv == /* ]] || venv=${PWD%/}/$venv

# The stamp is written last and bears setup.cfg's modification time: newer or older, setup.cfg is not the one
# that was installed, and bootstrap.sh compares what it asks for. A python that is gone makes a dangling link.
stamp=$venv/.safesh-stamp
made=
if [[ -x $venv/bin/python && -r $stamp && ! $stamp -nt $root/setup.cfg && ! $stamp -ot $root/setup.cfg ]]; then
  read -r made _ <"$stamp" || made=
fi
if [[ $made != safesh-venv-1 ]]; then
  [[ ${1-} != __complete ]] || exit 0 # a press of TAB is no time to install anything
  "${BASH:-bash}" "$root/scripts/bootstrap.sh" "$venv" </dev/null >&2 || exit
fi

# Python ignores SIGPIPE and SIGXFSZ at its start, so what the caller ignored is known only here. The verb
# deletes the variable. (bash has its own say in the bits of SIGQUIT and SIGCHLD; Python can still tell these.)
if [[ ${1-} == exec && -r /proc/$$/status ]]; then
  IFS= read -r -d '' status </proc/$$/status || :
  ignored=${status#*SigIgn:?}
  # The parent, too: --pdeathsig must notice when it is gone before Python is up.
  export SAFESH_SIGIGN="${ignored%%[!0-9a-f]*}" SAFESH_PPID=$PPID
fi

exec "$venv/bin/python" -E -s -S "$main" "$@"
