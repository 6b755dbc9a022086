"""``completion``: the script that makes a shell complete our command lines.

The scripts hold no knowledge of ours: on every press of TAB they hand the line to the program that is being typed
(``./bin/safe.sh``, ``safesh``…) and offer what it answers (``complete``). Where that has another name, an alias say,
it might be anything, so the one that printed the script is asked. All three complete for the names ``safesh`` and
``safe.sh``, with any folder before.
"""

from __future__ import annotations

import os
import shlex
import sys

from safesh.cli import render
from safesh.cli.grammar import VERBS
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(args: dict[str, Any]) -> int:
    """Print the script of ``args["what"]``."""
    shell = args["what"]
    if shell is None:
        names = [word for word, _text in VERBS["completion"].choices]
        raise UsageError("for which shell?", place="completion", hint=f"safesh completion {'|'.join(names)}")
    render.say(_SCRIPTS[shell].replace("@OURSELVES@", " ".join(map(shlex.quote, ourselves()))).strip("\n"))
    return 0


def ourselves() -> list[str]:
    """The words, absolute, that run this same program from anywhere."""
    if os.path.basename(sys.argv[0]) != "__main__.py":
        return [os.path.abspath(sys.argv[0])]
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    script = os.path.join(root, "bin", "safe.sh")
    return [script] if os.path.exists(script) else [sys.executable, "-m", "safesh"]


# bash 3.2 and later. COMP_WORDS is cut at every COMP_WORDBREAKS letter, '=' and ':' among them, so words are put
# together again where no blank stood between the parts; readline then wants only what follows the last cut.
_BASH = r"""
# safesh: completion for bash. In ~/.bashrc:  source <(safe.sh completion bash)
_safesh() {
  local program=${COMP_WORDS[0]} line=${COMP_LINE:0:COMP_POINT} words=() starts=() part i
  for ((i = 0; i <= COMP_CWORD; i++)); do
    if ((i == 0)) || [[ $line == [[:space:]]* ]]; then
      words+=("")
      starts+=("$i")
      line=${line#"${line%%[![:space:]]*}"}
    fi
    part=${COMP_WORDS[i]}
    ((i < COMP_CWORD)) || part=$line
    words[${#words[@]} - 1]+=$part
    line=${line#"$part"}
  done
  program=${program/#\~\//$HOME/}
  COMPREPLY=()
  local found
  if [[ ${program##*/} == safe.sh || ${program##*/} == safesh ]] && [[ $(type -t -- "$program") == file ]]; then
    found=$("$program" __complete bash "${words[@]:1}" 2>/dev/null </dev/null) || return 0
  else
    found=$(@OURSELVES@ __complete bash "${words[@]:1}" 2>/dev/null </dev/null) || return 0
  fi
  local current=${words[${#words[@]} - 1]} kind=${found%%$'\n'*} cut='' value
  case $kind in
    words) ;;
    files | folders)
      # What stands before '=' was never part of readline's word.
      current=${current##*=}
      compopt -o filenames 2>/dev/null
      local action=-f
      [[ $kind == files ]] || action=-d
      while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen "$action" -- "$current")
      return 0
      ;;
    command\ *)
      local first=${kind#command }
      if declare -F _comp_command_offset >/dev/null; then
        _comp_command_offset "${starts[first]}"
      elif declare -F _command_offset >/dev/null; then
        _command_offset "${starts[first]}"
      else
        local action=-c
        ((${#words[@]} - 1 == first)) && [[ $current != */* ]] || action=-f
        [[ $action == -c ]] || compopt -o filenames 2>/dev/null
        while IFS= read -r value; do COMPREPLY+=("$value"); done < <(compgen "$action" -- "$current")
      fi
      return 0
      ;;
    *) return 0 ;;
  esac
  if [[ $current == *=* && $COMP_WORDBREAKS == *=* ]]; then cut=${current%"${current##*=}"}; fi
  if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then cut=${current%"${current##*:}"}; fi
  while IFS=$'\t' read -r value _; do
    [[ $current == [\'\"]* ]] || printf -v value %q "$value"
    COMPREPLY+=("${value#"$cut"}")
  done < <(tail -n +2 <<<"$found")
}
complete -F _safesh safesh safe.sh
"""

_ZSH = r"""
#compdef safesh safe.sh
# safesh: completion for zsh. In ~/.zshrc, after compinit:  source <(safe.sh completion zsh)
# or as a file named _safesh in a folder of $fpath.
_safesh() {
  local program=${words[1]/#\~\//$HOME/} found kind line
  local -a typed answer values
  (( CURRENT > 2 )) && typed=("${(@Q)words[2,CURRENT-1]}")
  typed+=("${(Q)PREFIX}")
  if [[ ${program:t} == (safesh|safe.sh) && ( -n ${commands[$program]} || ( $program == */* && -x $program ) ) ]]; then
    found=$("$program" __complete zsh "${typed[@]}" 2>/dev/null </dev/null) || return 1
  else
    found=$(@OURSELVES@ __complete zsh "${typed[@]}" 2>/dev/null </dev/null) || return 1
  fi
  answer=("${(@f)found}")
  kind=${answer[1]}
  case $kind in
    words)
      for line in "${(@)answer[2,-1]}"; do
        [[ -n $line ]] && values+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
      done
      _describe -V safesh values
      ;;
    files|folders)
      compset -P '*='
      if [[ $kind == files ]]; then _files; else _files -/; fi
      ;;
    command\ *)
      local first=${kind#command }
      shift $first words
      (( CURRENT -= first ))
      _normal
      ;;
  esac
}
if [[ ${funcstack[1]} == _safesh ]]; then _safesh "$@"; else compdef _safesh safesh safe.sh; fi
"""

_FISH = r"""
# safesh: completion for fish. In ~/.config/fish/config.fish:  safe.sh completion fish | source
function __safesh_complete
    set -l typed (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- $typed[1])
    set -l answer
    if string match -qr '(^|/)safe\.?sh$' -- "$program"; and begin; test -x "$program"; or command -q "$program"; end
        set answer ($program __complete fish $typed[2..-1] "$current" 2>/dev/null </dev/null)
    else
        set answer (@OURSELVES@ __complete fish $typed[2..-1] "$current" 2>/dev/null </dev/null)
    end
    set -l kind (string split ' ' -- $answer[1])
    switch "$kind[1]"
        case words
            printf '%s\n' $answer[2..-1]
        case files
            __fish_complete_path (string replace -r '^--[^=]*=' '' -- "$current")
        case folders
            __fish_complete_directories (string replace -r '^--[^=]*=' '' -- "$current")
        case command
            set -l words $typed "$current"
            set -l first (math $kind[2] + 1)
            complete -C (string join ' ' -- (string escape -- $words[$first..-2]) "$current")
    end
end
complete -c safesh -c safe.sh -f -a '(__safesh_complete)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
