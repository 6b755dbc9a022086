"""What the completion scripts ask on every press of TAB: ``__complete SHELL WORD...``.

The words are those of the line up to the cursor, without the program's name; the last one may be empty. The answer's
first line says what to complete with: ``words`` (the lines below, ``WORD<TAB>MEANING``), ``files``, ``folders``, or
``command N`` (from the N-th word on it is somebody else's command line, counted from 1). Whatever goes wrong,
nothing is said: a half-typed line is no place for errors.
"""

from __future__ import annotations

import os

from safesh import config as configs
from safesh import paths, wire
from safesh.cli.grammar import GLOBAL_OPTIONS, VERBS, Option, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.config import Config

    Candidates = list[tuple[str, str]]

_AD_HOC = configs.ADHOC_PROJECT
_ONLY_TARGETS = ("start", "export")  # they know nothing but safe.toml
_MOST_RECORDS = 100  # records read for names: nobody waits for more
_LONGEST_TEXT = 60


def answer(argv: list[str]) -> int:
    """Print it; always 0."""
    try:
        shell, *words = argv
        if shell == "bash":  # it hands over what was typed
            words = [_unquote(word) for word in words]
        line = _Line(words or [""])
        kind, found = line.complete()
        if shell == "bash":  # the others choose by their own rules, which may ignore case or fill gaps
            found = [(word, text) for word, text in found if word.startswith(line.current)]
        lines = [kind, *(f"{word}\t{_short(text)}" for word, text in found if word.isprintable())]
        os.write(1, ("\n".join(lines) + "\n").encode())
    except Exception:  # a broken safe.toml, a closed pipe, a bug of ours: no completion
        pass
    return 0


class _Line:
    """A half-typed command line."""

    def __init__(self, words: list[str]) -> None:
        *self.before, self.current = words
        self.verb: Verb | None = None
        self.config: str | None = None
        self.words: list[str] = []  # positional ones
        self.used: set[str] = set()
        self.waiting: Option | None = None  # the option whose value comes next

    def complete(self) -> tuple[str, Candidates]:
        """(kind, candidates), see the module."""
        for number, word in enumerate(self.before, start=1):
            if self.verb is not None and (self.verb.raw or (word == "--" and self.verb.command)):
                return self._exec(number) if self.verb.raw else (f"command {number + 1}", [])
            self._take(word)
        if self.verb is not None and self.verb.raw:
            return self._exec(len(self.before) + 1)
        if self.waiting is not None:
            return _values(self.waiting)
        flag, equals, _value = self.current.partition("=")
        if self.current.startswith("--") and equals:
            option = self._options().get(flag)
            kind, found = _values(option) if option is not None else ("words", [])
            return kind, [(f"{flag}={word}", text) for word, text in found]
        if self.current.startswith("-"):
            return "words", self._flags()
        if self.verb is None:
            return "words", [(verb.name, verb.summary) for verb in VERBS.values()]
        found = self._positional(self.verb)
        return "words", found if found or self.current else self._flags()

    def _take(self, word: str) -> None:
        if self.waiting is not None:
            if self.waiting.name == "config":
                self.config = word
            self.waiting = None
        elif word.startswith("-"):
            flag, equals, value = word.partition("=")
            option = self._options().get(flag)
            if option is None:
                return
            self.used.update(option.flags)
            if option.kind != "flag" and not equals:
                self.waiting = option
            elif option.name == "config":
                self.config = value
        elif self.verb is None:
            self.verb = VERBS[word]  # KeyError: an unknown command has no completions
        else:
            self.words.append(word)

    def _options(self) -> dict[str, Option]:
        rows = (*GLOBAL_OPTIONS, *(self.verb.options if self.verb is not None else ()))
        return {flag: option for option in rows for flag in option.flags}

    def _flags(self) -> Candidates:
        """Options not given yet; the short spelling only where nothing longer was begun."""
        found = [(flag, option.text) for flag, option in self._options().items() if flag not in self.used]
        if not self.current.startswith("-") or self.current.startswith("--"):
            found = [(flag, text) for flag, text in found if flag.startswith("--")]
        found.append(("--help", "all about it"))
        return found if self.verb is not None else [*found, ("--version", "print the version")]

    def _positional(self, verb: Verb) -> Candidates:
        if verb.choices and not self.words:
            return list(verb.choices)
        if verb.noun == "COMMAND":
            return [] if self.words else [(one.name, one.summary) for one in VERBS.values()]
        given = self.words[1:] if verb.choices else self.words
        found: Candidates = []
        if verb.target == "many" or (verb.target and not given):
            names = list_names(verb.name, self.config)
            found = [(name, text) for name, text in names.items() if name not in given]
        if verb.command and len(given) == 1 and self.current in ("", "-", "--"):
            found.append(("--", "then the command to run"))
        return found

    def _exec(self, first: int) -> tuple[str, Candidates]:
        """``exec`` reads its words itself: options end at the first word that is none."""
        from safesh.cli import exec_help

        options = {
            flag: (term, text)
            for _title, rows in exec_help.OPTIONS
            for term, text in rows
            for flag in term.replace(",", "").split()
            if flag.startswith("-")
        }
        waiting = ""
        for number, word in enumerate(self.before[first - 1 :], start=first):
            if waiting:
                waiting = ""
            elif word == "--":
                return f"command {number + 1}", []
            elif not word.startswith("-"):
                return f"command {number}", []
            elif "=" not in word:
                waiting = _value_of(options.get(word, ("", ""))[0])
        if waiting:
            return "words", _spelled(waiting)
        flag, equals, _value = self.current.partition("=")
        if equals and flag in options:
            return "words", [(f"{flag}={word}", text) for word, text in _spelled(_value_of(options[flag][0]))]
        if self.current.startswith("-"):
            return "words", [(flag, text) for flag, (_term, text) in options.items()]
        return f"command {len(self.before) + 1}", []


def _value_of(term: str) -> str:
    """What an option of ``exec`` takes: the last word of its term; "" for a flag."""
    last = term.rpartition(" ")[2]
    return "" if last.startswith("-") else last


def _spelled(value: str) -> Candidates:
    """The words that ``group|child`` or ``SIG`` stand for; none for a number or a time."""
    if value == "SIG":
        from safesh.core.signals import NUMBERS

        return [(name.removeprefix("SIG"), f"signal {number}") for name, number in NUMBERS.items()]
    return [(word, "") for word in value.split("|")] if "|" in value else []


def _values(option: Option) -> tuple[str, Candidates]:
    if option.metavar in ("FILE", "PATH"):
        return "files", []
    if option.metavar in ("FOLDER", "DIR"):
        return "folders", []
    return "words", []


def list_names(verb: str, config: str | None) -> dict[str, str]:
    """What the command may be told about: name -> a few words. config: the ``--config`` option, None without it."""
    found: dict[str, str] = {}
    opened = _open(config)
    if opened is not None:
        for spec in opened.targets.values():
            found[spec.name] = " ".join(spec.command)
    if verb in _ONLY_TARGETS:
        return found
    if opened is not None and verb != "logs":
        for spec in opened.targets.values():
            if spec.instance != spec.name:
                found.setdefault(spec.instance, f"the instance of {spec.name}")
    for project in [opened.project, _AD_HOC] if opened is not None else _list(paths.state_home()):
        folder = os.path.join(paths.state_home(), project)
        for file in _list(folder)[:_MOST_RECORDS]:
            if file.endswith(".json"):
                name = file.removesuffix(".json")
                # An instance has no log; the targets that ran in it have.
                if verb != "logs" or os.path.exists(os.path.join(folder, name + ".log")):
                    found.setdefault(name, f"has run, project {project}")
                if opened is None and (target := _target_in(os.path.join(folder, file))):
                    found.setdefault(target, f"has run, project {project}")
    return found


def _open(config: str | None) -> Config | None:
    """The safe.toml in force; None where there is none. Whatever is wrong with it ends the completion."""
    path = configs.find(explicit=os.path.expanduser(config) if config else None)
    return configs.load(path) if path else None


def _list(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _target_in(path: str) -> str:
    """The target that a record names, "" where it names none."""
    try:
        record = wire.loads(paths.read_private(path) or "")
    except Exception:
        return ""
    target = record.get("target") if isinstance(record, dict) else None
    return target if isinstance(target, str) else ""


def _short(text: str) -> str:
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."


def _unquote(word: str) -> str:
    """A word as bash reads it, without expansions; a quote may still be open."""
    found, quote, index = "", "", 0
    while index < len(word):
        letter = word[index]
        index += 1
        if letter == quote:
            quote = ""
        elif not quote and letter in "'\"":
            quote = letter
        elif letter == "\\" and quote != "'" and index < len(word) and (not quote or word[index] in '"\\$`'):
            found += word[index]
            index += 1
        else:
            found += letter
    return os.path.expanduser(found) if word.startswith("~") else found
