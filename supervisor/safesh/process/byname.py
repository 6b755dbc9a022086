"""Ending processes by name: exactly that name, our own user's, and never anybody that we depend on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from safesh import _platform
from safesh._platform import others
from safesh.core.contain import ancestors, describe
from safesh.core.kill import end_tree
from safesh.instance.strays import matches
from safesh.model import StopPolicy, Verdict
from safesh.process.ending import LeanTree
from safesh.process.errors import InvalidCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from safesh._platform import Info
    from safesh.model import Member

_COMM = 15  # bytes that the kernel keeps of a name (proc_pid_comm(5))


class _Options(NamedTuple):
    """How an interpreter reads its words. runs: the next word is what it runs; takes: the next word is a value;
    code: letters after which there is no script; takes_code: the same in long; ends: letters with a value right behind.
    """

    runs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    code: str = ""
    takes_code: tuple[str, ...] = ()
    ends: str = ""


_NODE = _Options(takes=("-r", "--require", "--import", "-C"), code="ep", takes_code=("--eval", "--print"))
_JAVA_TAKES = ("-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules")
# By the program's name without its version.
_INTERPRETERS = {
    "python": _Options(runs=("-m",), takes=("-W", "-X", "--check-hash-based-pycs"), code="c"),
    "pypy": _Options(runs=("-m",), takes=("-W", "-X"), code="c"),
    "node": _NODE,
    "nodejs": _NODE,
    "perl": _Options(takes=("-I",), code="eE", ends="CDFMVdimx0l"),
    "ruby": _Options(takes=("-r", "-I", "-C"), code="e", ends="EFKTWix0"),
    "java": _Options(runs=("-jar", "-m", "--module"), takes=_JAVA_TAKES, ends="DXacdesv"),
    "sh": _Options(takes=("-o", "+o", "-O", "+O", "--rcfile", "--init-file"), code="cs"),
}
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "ash")


def find_processes_by_name(name: str, *, pattern: bool = False) -> list[Member]:
    """Whom ``kill_processes_by_name`` with the same arguments would end now, by pid."""
    wanted = _checked(name, pattern)
    return [describe(one) for _pid, one in sorted(_find(_platform.scan(), wanted, pattern).items())]


def kill_processes_by_name(name: str, force: bool = False, *, pattern: bool = False, grace: float = 3.0) -> Verdict:
    """Ask every process of ours with this name to end (SIGTERM), and wait up to ``grace`` seconds.

    A process has a name when the kernel calls it so, when its first word (argv[0]) is that or a path to it, or when it
    is an interpreter that runs a script, module or jar of that name. ``pattern=True`` takes ``name`` as a glob
    over the words of the command line: words one after the other, ``*`` for any run of characters.

    force: kill who is still there then (with a grace of 0: at once); without it they are the verdict's survivors.
    Ended are the processes of that name and not what they started. Never ended: ourselves, those above us, pid 1, the
    kernel's threads, and processes of other users, for root too. Nobody of that name is a success with a note.

    Raises InvalidCommand for a name that would mean anybody.
    """
    wanted = _checked(name, pattern)
    grace = _checked_grace(grace)
    tree = _Named(wanted, pattern)
    # No main process: everybody is asked at once.
    policy = StopPolicy(scope="tree", grace=grace)
    try:
        verdict = end_tree(tree, policy, now=force and grace == 0, force=force)
    finally:
        tree.close()
    verdict.target = name
    if not (verdict.asked or verdict.killed or verdict.survivors):
        what = "whose command line matches" if pattern else "with the name"
        verdict.notes.append(f"there is no process of this user {what} {name!r}")
        if not pattern and "*" in name:
            verdict.notes.append("* stands for itself in a name; pattern=True makes it match anything")
    return verdict


class _Named(LeanTree):
    """Not a tree: those of that name, and nobody below them, who may belong to somebody else."""

    def __init__(self, wanted: str, pattern: bool) -> None:
        super().__init__()
        self._wanted = wanted
        self._pattern = pattern

    def find(self, everything: dict[int, Info]) -> dict[int, Info]:
        found = _find(everything, self._wanted, self._pattern)
        for pid, start in self.handles:  # asked under that name, whatever it is called by now
            one = everything.get(pid)
            if one is not None and one.start == start and not one.dead:
                found[pid] = one
        return found

    def signal_groups(self, signal: int) -> None:
        """Nothing: a child that a member forks at this moment would be met too, and may be somebody else."""


def _checked(name: Any, pattern: bool) -> str:
    """``name`` without the blanks around it; InvalidCommand for what names nobody, or anybody."""
    if not isinstance(name, str):
        raise InvalidCommand(f"{type(name).__name__} is no process's name, which is a str", place="name")
    wanted = name.strip()
    hint = "give the whole name of a program"
    if not wanted:
        raise InvalidCommand("it is empty, and would mean everybody", place="name", hint=hint)
    if "\0" in wanted:
        raise InvalidCommand("it contains a NUL byte, which no name can", place="name", hint=hint)
    words = wanted.split() if pattern else [wanted]
    if not any(any(letter.isalnum() for letter in word) for word in words):
        raise InvalidCommand(f"{name!r} has no letter or digit, and would mean anybody", place="name", hint=hint)
    if not pattern and "/" in wanted:
        raise InvalidCommand(
            f"{name!r} is a path", place="name", hint="give its last part, or pattern=True to match the path"
        )
    return wanted


def _checked_grace(grace: Any) -> float:
    if isinstance(grace, bool) or not isinstance(grace, (int, float)) or not 0 <= grace < float("inf"):
        raise InvalidCommand(f"{grace!r} is no number of seconds from 0 on", place="grace")
    return float(grace)


def _find(everything: dict[int, Info], wanted: str, pattern: bool) -> dict[int, Info]:
    never = ancestors(everything) | {os.getpid()}
    uid = os.geteuid()
    found = {}
    for pid, one in everything.items():
        if pid in never or one.dead:
            continue
        words = _platform.cmdline(pid)
        if not (matches(words, wanted) if pattern else _is_named(one.command, words, wanted)):
            continue
        # Both: somebody else's program that became root by its file's mode is still somebody else's.
        if others.owners(pid) == (uid, uid) and not others.is_kernel(pid) and _platform.start_time(pid) == one.start:
            found[pid] = one
    return found


def _is_named(command: str, words: Sequence[str], wanted: str) -> bool:
    names = [os.path.basename(words[0]).removeprefix("-"), script(words)] if words else []  # "-bash": a login shell
    if wanted in names:
        return True
    if command != wanted:
        return False
    # Its 15 bytes may be the beginning of a longer name, which the command line then shows.
    full = len(command.encode()) >= _COMM
    return not (full and any(len(name) > len(command) and name.startswith(command) for name in names))


def script(words: Sequence[str]) -> str:
    """The last part of the script, module or jar that an interpreter runs; "" for other programs, and for ``-c``."""
    program = os.path.basename(words[0]).removeprefix("-")
    base = program if program in _SHELLS else program.rstrip("0123456789.")
    options = _INTERPRETERS.get("sh" if base in _SHELLS else base)
    if options is None:
        return ""
    rest = iter(words[1:])
    for word in rest:
        if word == "--" or word in options.runs:
            return os.path.basename(next(rest, ""))
        if word in options.takes:
            next(rest, "")
        elif word == "-" or not word.startswith(("-", "+")):
            return os.path.basename(word)
        elif not word.startswith("--"):
            # Short ones stand together, as in "-uc" and "-Bm"; what follows one that takes a value is that.
            for place, letter in enumerate(word[1:], 2):
                if letter in options.code:
                    return ""
                if "-" + letter in options.runs:
                    return os.path.basename(word[place:] or next(rest, ""))
                if "-" + letter in options.takes:
                    if not word[place:]:
                        next(rest, "")
                    break
                if letter in options.ends:
                    break
        elif word in options.takes_code:
            return ""
    return ""
