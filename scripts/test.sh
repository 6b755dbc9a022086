#!/usr/bin/env bash
# test.sh - run the tests, from nothing: makes both virtual environments, installs what the system lacks.
#
# Usage: test.sh [PYTEST-ARGUMENT]...    (without arguments: everything, several files at a time)
#        test.sh --several FILE... [PYTEST-OPTION]...    (these files, several at a time)
set -euo pipefail

self=${BASH_SOURCE[0]}
here=.
[[ $self != */* ]] || here=${self%/*}
cd -P -- "$here/.." >/dev/null
unset CDPATH PYTHONDONTWRITEBYTECODE SAFESH_VENV SAFESH_HOME SAFESH_CONFIG SAFESH_BACKEND

# Whatever tests/helpers/browser.py would take.
has_chromium() {
  local name
  [[ -z ${SAFESH_TEST_CHROMIUM:-${SAFESH_CHROMIUM:-}} ]] || return 0
  for name in chromium chromium-browser google-chrome-stable google-chrome; do
    ! command -v "$name" >/dev/null || return 0
  done
  compgen -G "${PLAYWRIGHT_BROWSERS_PATH:-${HOME:-/}/.cache/ms-playwright}/chromium-*" >/dev/null
}

# Tests that need one of these are skipped, by name, where it cannot be had.
missing=()
for tool in tmux strace; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
has_chromium || missing+=(chromium)

say_how() {
  echo "test.sh: without $1 its tests are skipped$2"
  [[ $1 != chromium ]] || echo "test.sh: another Chromium will do: python -m playwright install chromium," \
    'or SAFESH_TEST_CHROMIUM=/path/to/it'
}

# A Chromium takes a minute; the environments are made meanwhile.
install_missing() {
  local tool log
  log=$(mktemp)
  apt-get update -qq >"$log" 2>&1 || :
  for tool in "${missing[@]}"; do
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$tool" >"$log" 2>&1; then
      tail -n 5 "$log"
      say_how "$tool" ': apt-get could not install it'
    fi
  done
  rm -f "$log"
}

installing=
if ((${#missing[@]})); then
  if ((EUID == 0)) && command -v apt-get >/dev/null; then
    echo "test.sh: installing with apt-get: ${missing[*]}"
    install_missing </dev/null &
    installing=$!
  else
    for tool in "${missing[@]}"; do
      say_how "$tool" ": as root, apt-get install $tool"
    done
  fi
fi

# The tests call bin/safe.sh as a user does, in .venv; pytest and the checkers live in .venv-dev, so that
# nothing of theirs is seen, or timed, where safesh runs.
bash scripts/bootstrap.sh .venv
bash scripts/bootstrap.sh .venv-dev --extras dev
[[ -z $installing ]] || wait "$installing" || :
if (($#)) && [[ $1 != --several ]]; then
  exec .venv-dev/bin/python -m pytest "$@"
fi
exec .venv-dev/bin/python scripts/run_tests.py "${@:2}"
