#!/usr/bin/env bash
# safe-health.sh - cron's entry: silent and 0 while all is well, else one line on stdout and the code.
#
# Usage: safe-health.sh [TARGET]... [--start] [--config FILE] [--timeout T]
#
# --start brings up what is dead. The codes are Nagios's: 1 warning, 2 critical, 3 unknown. Works without a
# terminal, with an empty environment, from any folder and through symlinks. Two never look at one target at
# once: the second leaves silently, with 0.
#
# Reads the safe.toml that safe.sh would read; where there is none from the working directory up, the one in
# this checkout. Environment: as safe.sh's. The usual folders are added to PATH.
set -euo pipefail

# cron gives /usr/bin:/bin. Without any, bash makes one up that ends in '.', the working directory, and does not
# export it.
usual=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if compgen -e -X '!PATH' >/dev/null; then
  PATH=${PATH:+$PATH:}$usual
else
  export PATH=$usual
fi

# The state folder lies below HOME. Without one, bash asks the user database.
if [[ -z ${HOME-} ]]; then
  unset HOME
  HOME=~
  export HOME
fi

# The same way to the checkout as in safe.sh, which tells the reasons.
self=${BASH_SOURCE[0]:-$0}
[[ $self == */* ]] || self=./$self
[[ $self == /* ]] || self=${PWD%/}/${self#./}
while [[ -L $self ]]; do
  link=$(readlink "$self")
  [[ $link == /* ]] || link=${self%/*}/$link
  self=$link
done
root=${self%/*}
if [[ $root == */bin && ! -L $root ]]; then
  root=${root%/bin}
else
  root=$root/..
fi
[[ $root/ != */../* ]] || root=$(CDPATH='' cd -P -- "$root" && pwd) # as in safe.sh

unknown() {
  printf 'UNKNOWN - %s\n' "$1"
  exit 3
}
safe=$root/bin/safe.sh
[[ -x $safe ]] || unknown "$self stands outside of its checkout: put a symlink to it there instead of a copy"

# A first call, or one after an upgrade, makes the virtual environment. What that has to say is no news for cron.
venv=${SAFESH_VENV:-$root/.venv}
stamp=$venv/.safesh-stamp
if [[ ! -x $venv/bin/python || $stamp -nt $root/setup.cfg || $stamp -ot $root/setup.cfg ]]; then
  "$safe" --version </dev/null >/dev/null 2>&1 || unknown "safe.sh cannot make its virtual environment; see: $safe --version"
fi

config=()
if [[ -z ${SAFESH_CONFIG-} && -e $root/safe.toml ]]; then
  config=(--config "$root/safe.toml")
  folder=$PWD
  while :; do
    if [[ -e $folder/safe.toml ]]; then
      config=()
      break
    fi
    [[ -n $folder ]] || break
    folder=${folder%/*}
  done
fi
# Of two --config the later counts. The odd expansion is for bash before 4.4, where an empty array is unset.
exec "$safe" health --cron ${config[@]+"${config[@]}"} "$@" </dev/null
