#!/usr/bin/env bash
# lint.sh - format, lint and type-check everything; finds its own targets.
#
# Usage: lint.sh [--fix]        --fix formats, and repairs what can be repaired, instead of complaining
#
# All checkers run, also after one has failed; the exit status is 1 if any did.
set -euo pipefail

self=${BASH_SOURCE[0]}
here=.
[[ $self != */* ]] || here=${self%/*}
cd -P -- "$here/.." >/dev/null
unset CDPATH PYTHONDONTWRITEBYTECODE

bash scripts/bootstrap.sh .venv-dev --extras dev
tools=.venv-dev/bin

# What git knows or would add; outside of git, what lies here.
files() {
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard
  else
    find . -type d \( -name '.?*' ! -name .ci -o -name build -o -name dist \) -prune -o -type f -print0
  fi
}

shells=()
pythons=()
while IFS= read -r -d '' file; do
  [[ -f $file && ! -L $file ]] || continue # deleted, not yet committed
  case $file in
    *.sh | *.bash) shells+=("$file") ;;
    *.py | *.pyi) pythons+=("$file") ;;
    *)
      line=
      IFS= read -r line 2>/dev/null <"$file" || :
      case $line in
        '#!'*[/\ ]bash | '#!'*[/\ ]bash\ * | '#!'*[/\ ]sh | '#!'*[/\ ]sh\ *) shells+=("$file") ;;
        '#!'*python*) pythons+=("$file") ;;
      esac
      ;;
  esac
done < <(files)

failed=
check() {
  echo "lint.sh: $1"
  shift
  "$@" || failed=1
}

style=(-i 2 -ci)
if [[ ${1-} == --fix ]]; then
  check 'ruff check --fix' "$tools/ruff" check --quiet --fix "${pythons[@]}"
  check 'ruff format' "$tools/ruff" format --quiet "${pythons[@]}"
  check 'shfmt -w' "$tools/shfmt" "${style[@]}" -w "${shells[@]}"
else
  check 'ruff check' "$tools/ruff" check --quiet "${pythons[@]}"
  check 'ruff format --check' "$tools/ruff" format --quiet --diff "${pythons[@]}"
  check 'mypy --strict supervisor/' "$tools/mypy" --strict supervisor/
  check "shellcheck (${#shells[@]} files)" "$tools/shellcheck" --external-sources "${shells[@]}"
  check 'shfmt -d' "$tools/shfmt" "${style[@]}" -d "${shells[@]}"
  check 'vulture' "$tools/vulture" --min-confidence 80 supervisor
fi
if [[ -n $failed ]]; then
  echo 'lint.sh: not clean; next: make fix, then make lint' >&2
  exit 1
fi
echo 'lint.sh: clean'
