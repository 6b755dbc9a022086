#!/usr/bin/env bash
# test.sh - run the tests, from nothing: makes both virtual environments, installs what the system lacks.
#
# Usage: test.sh [PYTEST-ARGUMENT]...    (without arguments: everything, several files at a time)
set -euo pipefail

self=${BASH_SOURCE[0]}
here=.
[[ $self != */* ]] || here=${self%/*}
cd -P -- "$here/.." >/dev/null
unset CDPATH PYTHONDONTWRITEBYTECODE SAFESH_VENV SAFESH_HOME SAFESH_CONFIG SAFESH_BACKEND

# Tests that need one of these are skipped, by name, where it cannot be had.
missing=
for tool in tmux strace; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [[ -n $missing ]]; then
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    echo "test.sh: installing with apt-get:$missing"
    # shellcheck disable=SC2086 # a list of words
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing; } </dev/null; then
      echo "test.sh: apt-get could not; going on without$missing"
    fi
  else
    echo "test.sh: not installed, so their tests are skipped:$missing"
  fi
fi

# The tests call bin/safe.sh as a user does, in .venv; pytest and the checkers live in .venv-dev, so that
# nothing of theirs is seen, or timed, where safesh runs.
bash scripts/bootstrap.sh .venv
bash scripts/bootstrap.sh .venv-dev --extras dev
if (($#)); then
  exec .venv-dev/bin/python -m pytest "$@"
fi
exec .venv-dev/bin/python scripts/run_tests.py
