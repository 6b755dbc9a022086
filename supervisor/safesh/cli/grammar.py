"""The command line as one table, and a small parser that reads well-formed lines straight from it.

``parse`` answers None for whatever it does not fully understand (help, mistakes, combined short options);
``clickapp`` then builds click's commands from the same table and either gets the same ``Parsed`` or says what
is wrong. A test holds the two parsers against each other.

What handlers get in ``args``: every option under its name (``kill-all --no-color`` gives ``no_color``), the
positional words as ``what`` (one of the verb's choices) and ``target`` (str or None) or ``targets`` (list), what
follows ``--`` as ``command`` (list, empty without it), and the global ``config`` (str or None) and ``no_color``.
``exec`` gets ``argv`` untouched.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Kind = Literal["flag", "text", "texts", "seconds", "count"]

_METAVARS = {"flag": "", "text": "TEXT", "texts": "TEXT", "seconds": "T", "count": "N"}


class Option:
    """One option: its spellings (the long one first names it), its kind and its default.

    kind: ``seconds`` reads durations (``5``, ``1.5s``, ``2m``), ``count`` whole numbers from 0, ``texts`` may be given
    again and again and gives a list.
    """

    def __init__(self, flags: str, text: str, *, kind: Kind = "flag", default: Any = None, metavar: str = "") -> None:
        self.flags = tuple(flags.split())
        self.name = self.flags[0].removeprefix("--").replace("-", "_")
        self.text = text
        self.kind = kind
        self.default = False if kind == "flag" else [] if kind == "texts" else default
        self.metavar = metavar or _METAVARS[kind]


class Verb:
    """One row: a verb, the module in ``safesh.cli`` whose ``run`` serves it, and all that its help says.

    target: "" (none), "one" (at most one) or "many"; noun: what a target is called here; choices: (word, meaning)
    of which the first positional word must be one; command: ``-- CMD ARGS…`` is understood; raw: everything after
    the word goes untouched to the module's ``main``; codes: (exit status, meaning).
    """

    def __init__(
        self,
        name: str,
        summary: str,
        text: str,
        *,
        target: Literal["", "one", "many"] = "many",
        noun: str = "TARGET",
        choices: tuple[tuple[str, str], ...] = (),
        command: bool = False,
        raw: bool = False,
        options: tuple[Option, ...] = (),
        examples: tuple[tuple[str, str], ...] = (),
        codes: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.name = name
        self.module = name.replace("-", "")
        self.summary = summary
        self.text = text
        self.target = target
        self.noun = noun
        self.choices = choices
        self.command = command
        self.raw = raw
        self.options = options
        self.examples = examples
        self.codes = codes


class Parsed:
    """A line understood: the verb's name and its handler's arguments."""

    def __init__(self, verb: str, args: dict[str, Any]) -> None:
        self.verb = verb
        self.args = args

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parsed) and (self.verb, self.args) == (other.verb, other.args)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Parsed({self.verb!r}, {self.args!r})"


# Understood before and after the verb. --version and --help are click's: no fast path needs them.
GLOBAL_OPTIONS = (
    Option("--config", "read FILE, not the safe.toml found by walking up from here", kind="text", metavar="FILE"),
    Option("--no-color", "plain text, also on a terminal (as NO_COLOR does)"),
)

_FORCE = Option("--force -f", "do not ask")
_NOW = Option("--now", "no grace: kill at once")
_JSON = Option("--json", "one JSON document on stdout, nothing else")
_GRACE = Option("--timeout", "grace between asking and killing, not the target's own", kind="seconds")

_ENDED = (
    ("0", "zero survivors"),
    ("1", "somebody survived (listed with the reason)"),
    ("2", "wrong usage, the answer was no, or nobody could be asked"),
)

_ROWS = (
    Verb(
        "init",
        "write a safe.toml: commented, or from a Procfile, supervisord.conf or systemd unit",
        "Writes safe.toml into the working directory (--config FILE: there), never over one that is there. Where "
        "there is a Procfile, a supervisord.conf or exactly one *.service, what it describes is translated; every "
        "line that could not be is told on stderr and stands in the file as a comment, with the "
        "reason. Else the file teaches every key.",
        target="",
        options=(
            Option("--from", "translate FILE, not what is found here", kind="text", metavar="FILE"),
            Option("--force -f", "replace a safe.toml that is here"),
            Option("--print -p", "show it on stdout, write nothing"),
            _JSON,
        ),
        examples=(
            ("init", "a commented safe.toml, or one from what is here"),
            ("init --from deploy/worker.service", "from a systemd unit, its drop-ins included"),
            ("init --print", "look first"),
            ("init --from Procfile.dev --force --json", "for programs: what was and was not translated"),
        ),
        codes=(
            ("0", "written, or shown"),
            ("2", "there is a safe.toml already, or it cannot be written"),
            ("78", "the source cannot be read, or describes nothing to start"),
        ),
    ),
    Verb(
        "start",
        "run targets, or any command, exactly once",
        "Runs TARGET of safe.toml under a lock, in the foreground: its output is here, Ctrl-C ends it whole. A "
        "second start is refused and names the holder. TARGET may be left out where safe.toml has only one. Several "
        "targets, and --all, start detached; what a target depends on starts first, detached too. With "
        "`-- CMD ARGS…` no safe.toml is needed: TARGET is then any name, and at most one CMD runs under it.",
        command=True,
        options=(
            Option(
                "--detach -d", "come back once it is ready (or has failed, with the reason); it outlives the terminal"
            ),
            Option("--all", "every target of safe.toml, one of each instance"),
            Option("--replace", "end what holds the instance or strays from it, then start"),
            Option("--force -f", "with --replace: do not ask"),
            Option("--timeout", "how long --detach waits until it is ready", kind="seconds"),
            Option("--if-fits", "only where CPU, memory and disk have room for it, by its past runs too"),
            Option("--anyway", "also where safe.toml's admission says that it does not fit"),
            _JSON,
        ),
        examples=(
            ("start headless", "in the foreground, until it ends or Ctrl-C"),
            ("start headless --detach", "in the background"),
            ("start --all --detach", "everything, dependencies first"),
            ("start gui --replace --force", "end whatever runs in gui's instance first, without asking"),
            ("start backup -- rsync -a /data /mnt", "ad hoc: what `flock -n` is used for in cron"),
        ),
        codes=(
            ("0", "it exited 0 (foreground), or it runs (--detach)"),
            ("N, 128+N", "its own exit status, or the signal N that ended it"),
            ("75", "already running, or it does not fit now (--if-fits)"),
            ("78", "safe.toml is wrong"),
            ("126, 127", "the command is not executable, or not there"),
        ),
    ),
    Verb(
        "stop",
        "end targets with every process they made",
        "Lists what will end, asks, sends the stop signal, waits the grace, kills what is left, and tells who ended "
        "how. Done means nobody is left. Without TARGET: every live instance of the project.",
        options=(_FORCE, _GRACE, _NOW, _JSON),
        examples=(
            ("stop headless", "list, ask, stop"),
            ("stop --force", "everything of this project, without asking"),
            ("stop headless --timeout 30s", "give it half a minute before killing"),
        ),
        codes=_ENDED,
    ),
    Verb(
        "restart",
        "stop targets, then start them again",
        "Stops as `stop` does and starts the same targets once nobody is left of them. Without TARGET: every live "
        "instance of the project. The lock is kept, and what was detached stays detached.",
        options=(
            _FORCE,
            _GRACE,
            _NOW,
            _JSON,
        ),
        examples=(
            ("restart headless", "list, ask, stop, start"),
            ("restart --force --now", "everything, without asking or waiting"),
        ),
        codes=(*_ENDED, ("75, 78, 126, 127", "as of `start`")),
    ),
    Verb(
        "status",
        "show what runs: lock, state, process tree, strays",
        "For every instance: who holds the lock; target, state, pid, uptime, restarts, the last exit and its cause; "
        "its processes with CPU and memory; processes of ours that nobody holds (strays). CPU is each process's "
        "average over its life; with --watch it is the share since the sample before. Memory is resident memory: "
        "pages shared by several processes count in each of them.",
        options=(
            _JSON,
            Option("--watch -w", "look again and again, until Ctrl-C"),
            Option("--interval", "time between two looks of --watch (default 2s)", kind="seconds", default=2.0),
        ),
        examples=(
            ("status", "every instance of this project"),
            ("status headless", "one target; the exit status tells the state"),
            ("status --watch --interval 1s", "a live view"),
            ("status --json", "for programs"),
        ),
        codes=(
            ("0", "running"),
            ("1", "dead, and its pid file is left"),
            ("2", "dead, and its lock is held or left"),
            ("3", "not running"),
            ("4", "unknown"),
            ("", "of several targets: 0 if all run, else the worst, in the order 4, 2, 1, 3"),
        ),
    ),
    Verb(
        "health",
        "probe targets now: one line and a code for monitors",
        "Makes each target's health probe (else its readiness probe, else asks whether it runs) at this moment, and "
        "answers in one line with performance data, as Nagios plugins do. Starting is not healthy. What only a "
        "supervisor can see (sd_notify's watchdog) is told by its word, while that is fresh. Without TARGET: one "
        "target of each instance of safe.toml, the one that runs or the first.",
        options=(
            Option("--start", "bring up what is dead, wait until it is ready, then tell"),
            Option("--timeout", "time for all of it (default 30s; --start adds ready.within)", kind="seconds"),
            Option("--cron", "silent while all is well, and where another such look is under way"),
            _JSON,
        ),
        examples=(
            ("health headless", "OK - headless healthy: HTTP 200 in 0.012s | time=0.012s;;5;0 restarts=0 uptime=123s"),
            ("health", "all of safe.toml; who is not well comes first"),
            ("health headless --start", "as a watchdog: start it again where it is dead"),
            ("health headless --json", "for programs"),
        ),
        codes=(
            ("0", "OK: it serves, or runs where it has no probe"),
            ("1", "WARNING: starting, stopping, or in its start period"),
            ("2", "CRITICAL: dead, waiting to be started again, or its probe fails"),
            ("3", "UNKNOWN: no such target, safe.toml is wrong, nobody can tell"),
            ("", "of several targets: the worst, in the order 2, 3, 1, 0"),
        ),
    ),
    Verb(
        "kill-all",
        "end everything of this project: instances, ad hoc runs, strays",
        "Lists and asks, then ends every instance and every stray of the project. It never touches itself, its "
        "ancestors, pid 1, kernel threads or other users' processes.",
        target="",
        options=(_FORCE, _GRACE, _NOW, _JSON),
        examples=(("kill-all", "list, ask, end"), ("kill-all --force --now", "no questions, no grace")),
        codes=_ENDED,
    ),
    Verb(
        "logs",
        "show what targets printed",
        "The last lines of each target's log. Without TARGET: of every target that has one.",
        options=(
            Option("--follow -f", "go on as it grows, over rotations, until Ctrl-C"),
            Option("--lines -n", "how many lines from the end (default 20)", kind="count", default=20),
            Option("--path", "print where the log lies instead"),
        ),
        examples=(
            ("logs headless", "the last 20 lines"),
            ("logs -f headless", "live"),
            ("logs headless -n 1000", "more of it"),
        ),
        codes=(("0", "shown"), ("1", "nothing has been printed yet: there is no log"), ("2", "no such target")),
    ),
    Verb(
        "top",
        "watch process trees live; stop or kill what is selected",
        "Shows every instance with its processes and what they use now, and refreshes it until q or Ctrl-C. Its keys: "
        "h tells them all. s stops and k kills the selected process or instance, after a question that lists who "
        "would end. Through a pipe it prints one table. CPU is the share of one core since the look before, so a "
        "single look has none.",
        target="one",
        options=(
            Option("--interval", "time between two looks (default 2s)", kind="seconds"),
            Option("--once", "one table, also on a terminal; with --interval of two looks, so that CPU is known"),
            _JSON,
        ),
        examples=(
            ("top", "every instance of this project, live"),
            ("top headless --interval 1s", "one target"),
            ("top --once --interval 1s", "one table, rates over a second"),
            ("top --json", "for programs"),
        ),
        codes=(
            ("0", "shown"),
            ("128+N", "ended by signal N"),
            ("2", "no such target"),
            ("78", "safe.toml is wrong"),
        ),
    ),
    Verb(
        "history",
        "show past runs: how they ended, what they used, where it leads",
        "For each run: when, how long, how it ended, its peak memory and its CPU time. Below it what the samples of a "
        "target say: average, maximum, 95th percentile, and the slope where there is one, with the time until a limit "
        "of safe.toml is met. Without TARGET: every target of the project.",
        target="one",
        options=(
            Option("--since", "how far back to look (default 7d)", kind="seconds", default=604800.0),
            Option("--lines -n", "how many runs at most, 0 for all (default 20)", kind="count", default=20),
            _JSON,
            Option("--csv", "the runs as CSV on stdout, nothing else"),
            Option("--plot", "draw the samples into FILE, a PNG (needs matplotlib)", kind="text", metavar="FILE"),
        ),
        examples=(
            ("history", "the runs of the last week"),
            ("history headless --since 30d", "one target, a month"),
            ("history headless --plot memory.png", "as a picture"),
            ("history --csv --lines 0", "for a spreadsheet"),
            ("history --json", "for programs"),
        ),
        codes=(("0", "shown; also where there is nothing yet"), ("2", "no such target"), ("69", "no matplotlib")),
    ),
    Verb(
        "run",
        "run a plan: steps in parallel, seen live, resumed where they stopped",
        "A step starts the moment its dependencies are done and its resources are free, the critical path first. Every "
        "step is held like a target: ended whole, timed, measured; logs, events and results go to the output folder. "
        "Ctrl-C ends what runs and keeps the state; --resume goes on with what is not done.",
        target="one",
        noun="PLAN",
        options=(
            Option(
                "--output -o",
                "the folder for logs, events and results (default output)",
                kind="text",
                default="output",
                metavar="DIR",
            ),
            Option("--jobs -j", "steps at once (default: one a processor)", kind="count", default=0),
            Option("--keep-going -k", "a failed step cancels only what depends on it (the default)"),
            Option("--fail-fast", "the first failed step ends everything"),
            Option("--resume", "leave out what is done: same command, inputs and environment"),
            Option("--if-fits", "only where CPU, memory and disk have room for its greediest step"),
            Option("--dry-run", "show what would run, in which order, and run nothing"),
            Option(
                "--engine",
                "local, or dask for a cluster (default local)",
                kind="text",
                default="local",
                metavar="ENGINE",
            ),
            Option("--scheduler", "the cluster's scheduler, with --engine dask", kind="text", metavar="ADDRESS"),
            Option(
                "--progress",
                "auto, tty, plain, json or quiet (default auto)",
                kind="text",
                default="auto",
                metavar="HOW",
            ),
        ),
        examples=(
            ("run plan.json --output output/", "all of it"),
            ("run plan.json -j 4 --fail-fast", "four at once, stop at the first failure"),
            ("run plan.json --resume", "go on where it stopped"),
            ("run plan.json --dry-run", "in which order?"),
        ),
        codes=(
            ("0", "every step completed"),
            ("1", "a step failed, or was cancelled because of one"),
            ("69", "no cluster answers, or dask is missing"),
            ("75", "the output folder is in use, or it does not fit now (--if-fits)"),
            ("78", "the plan is wrong"),
            ("130", "interrupted; --resume goes on"),
        ),
    ),
    Verb(
        "mission",
        "run a Python file in an environment of its own, contained and measured",
        "Runs FILE.py as one tree that ends whole: with its program, at --timeout, at Ctrl-C, and when this command is "
        "killed. What it requires, by --require, --requirements or its own `# /// script` lines (PEP 723), is resolved "
        "and built into an environment that later missions share; without requirements it runs in safesh's own Python. "
        "Its output is here as it comes, and its input is ours where that is no terminal. What the system and the tree "
        "use goes to missions.jsonl.",
        target="one",
        noun="FILE.py",
        command=True,
        options=(
            Option("--require -r", "a requirement (PEP 508); may be repeated", kind="texts", metavar="REQ"),
            Option("--requirements", "more of them, one a line", kind="text", metavar="FILE"),
            Option("--id", "its name (default: that of the file)", kind="text", metavar="ID"),
            Option("--timeout", "end it whole after that time", kind="seconds"),
            Option("--keep-alive", "start it as a supervised instance, and come back once it runs"),
            Option("--browser", "its code finds browser and page of a Chromium (needs Playwright)"),
            Option("--queue", "how long to wait for room; without it a full machine refuses", kind="seconds"),
            Option("--anyway", "do not ask whether there is room"),
            _JSON,
        ),
        examples=(
            ("mission fit.py", "run it here"),
            ("mission fit.py --require 'numpy>=1.26' -- --fast data.csv", "with a package, and words of its own"),
            ("mission watch.py --keep-alive --id watch", "leave it running; safe.sh stop watch ends it"),
            ("mission shot.py --browser --timeout 2m", "with a browser, for two minutes at most"),
            ("mission fit.py --queue 10m --json", "wait for room; the result as JSON"),
        ),
        codes=(
            ("0", "it exited 0, or it runs (--keep-alive)"),
            ("N, 128+N", "its own exit status, or the signal N that ended it"),
            ("1", "it is no Python, or a limit ended it"),
            ("2", "wrong usage, or a requirement that is none"),
            ("69", "its environment cannot be built, or there is no browser"),
            ("75", "there is no room for it now, or it is kept alive already"),
            ("124", "--timeout ended it"),
        ),
    ),
    Verb(
        "exec",
        "run a command as its init: forward signals, reap, time out",
        "No lock, no config, one process: a PID 1 for containers and scripts. Its own options: `exec --help`.",
        target="",
        raw=True,
        examples=(
            ("exec -- make test", "signals reach the whole group"),
            ("exec --rewrite TERM:QUIT -- nginx", "stop it gracefully"),
            ("exec --timeout 5m --kill-after 30s -- job", "as timeout(1)"),
            ("exec --on-exit end -- ./run-tests.sh", "nothing survives it"),
            ("exec --session pgrp -- bash", "job control from a shell"),
        ),
    ),
    Verb(
        "metrics",
        "tell Prometheus what runs and what it uses",
        "Prints one sample of every metric, of the instances that `status` would show and of the system: for "
        "node_exporter's textfile collector, from cron. With --listen it serves them instead, measured anew for each "
        "scrape, until Ctrl-C or SIGTERM; that needs prometheus-client. What nobody knows is absent.",
        target="",
        options=(
            Option("--output -o", "replace FILE at once, readable for all (mode 0644)", kind="text", metavar="FILE"),
            Option("--format", "prometheus (0.0.4, the default) or openmetrics", kind="text", metavar="NAME"),
            Option("--listen", "serve http://HOST:PORT/metrics; a PORT alone: 127.0.0.1", kind="text", metavar="ADDR"),
        ),
        examples=(
            ("metrics", "one sample, on stdout"),
            ("metrics -o /var/lib/node_exporter/safesh.prom", "from cron: in whole, or not at all"),
            ("metrics --listen 127.0.0.1:9464", "for a Prometheus on this machine"),
            ("metrics --format openmetrics", "the newer format"),
        ),
        codes=(
            ("0", "printed, written, or served until it was told to end"),
            ("1", "the port is taken or not allowed"),
            ("2", "no such address or format, or FILE is no plain file"),
            ("69", "prometheus-client is not installed"),
            ("73", "FILE cannot be written"),
            ("78", "safe.toml is wrong"),
        ),
    ),
    Verb(
        "dashboard",
        "show what runs, what it uses and what it did in the browser",
        "Serves pages, at http://127.0.0.1:8501 by default, until Ctrl-C or SIGTERM: every instance, its tree, curves, "
        "health, events and log; the system's processes; plans; past runs. Buttons start, stop and restart after the "
        "question that the commands ask. Needs Streamlit. Listening beyond loopback, it prints a token, without "
        "which the pages show and do nothing; the connection is not encrypted.",
        target="",
        options=(
            Option("--port -p", "where to listen, 0 for a free port (default 8501)", kind="count", default=8501),
            Option(
                "--host",
                "the address to listen at (default 127.0.0.1)",
                kind="text",
                default="127.0.0.1",
                metavar="ADDR",
            ),
            Option("--read-only", "nothing can be started or stopped from the pages"),
            Option("--token", "ask for a token on loopback too: other users of this machine reach it there"),
            Option(
                "--plan",
                "an output folder of `run` to show; those near here are found; may be repeated",
                kind="texts",
                metavar="DIR",
            ),
        ),
        examples=(
            ("dashboard", "then open http://127.0.0.1:8501"),
            ("dashboard --port 0", "on a free port, which is printed"),
            ("dashboard --read-only --plan /srv/nightly/output", "to look only, with a plan from elsewhere"),
            ("dashboard --host 0.0.0.0", "for other machines; the pages ask for the token that is printed"),
        ),
        codes=(
            ("0", "served until it was told to end"),
            ("2", "no such address, or the port is taken"),
            ("69", "Streamlit is not installed"),
        ),
    ),
    Verb(
        "doctor",
        "check what safesh needs here, and say how to repair it",
        "Looks at Python and its libraries, the kernel, the backend chosen and why, the state folder, limits, the "
        "clock, safe.toml, and leftovers of runs that nobody holds. Each check says what it found; one that warns or "
        "fails also says why it matters and what to do. Nothing is changed, and no root is needed.",
        target="",
        options=(_JSON,),
        examples=(("doctor", "all checks"), ("doctor --json", "for programs")),
        codes=(("0", "all is well, or there are warnings only"), ("1", "something failed")),
    ),
    Verb(
        "export",
        "print a systemd unit or crontab lines that run a target",
        "Prints what starts TARGET at boot and keeps it running, on stdout and nothing else. The lines hold absolute "
        "paths, their own PATH and the state folder in use now, so it does not matter where they are run. "
        "Restarts stay with safesh; systemd steps in only when the supervisor itself is killed.",
        target="one",
        choices=(("systemd", "a service unit"), ("cron", "crontab lines")),
        options=(Option("--user", "systemd: a unit for `systemctl --user`, not for the system"),),
        examples=(
            ("export systemd headless", "a unit of the system, run as you"),
            ("export systemd headless --user", "a unit of your own"),
            ("export cron headless", "lines for `crontab -e`"),
        ),
        codes=(
            ("0", "printed"),
            ("2", "no such target, or a name that the format cannot hold"),
            ("78", "safe.toml is wrong"),
        ),
    ),
    Verb(
        "completion",
        "print what makes a shell complete our command lines",
        "The script completes commands, options, targets, and the names of what has run. Load it at the shell's start.",
        target="",
        choices=(("bash", "for ~/.bashrc"), ("zsh", "for ~/.zshrc"), ("fish", "for ~/.config/fish/config.fish")),
        examples=(
            ("completion bash", "in ~/.bashrc: source <(safe.sh completion bash)"),
            ("completion zsh", "in ~/.zshrc, after compinit: source <(safe.sh completion zsh)"),
            ("completion fish", "in config.fish: safe.sh completion fish | source"),
        ),
        codes=(("0", "printed"), ("2", "wrong usage")),
    ),
    Verb(
        "help",
        "show the page of a command",
        "The same as `COMMAND --help`; without COMMAND, the list of them all.",
        target="one",
        noun="COMMAND",
        examples=(("help", "what there is"), ("help stop", "all about one command")),
        codes=(("0", "shown"), ("2", "no such command")),
    ),
)

VERBS: dict[str, Verb] = {row.name: row for row in _ROWS}


def defaults(verb: Verb) -> dict[str, Any]:
    """The arguments of a line that says nothing but the verb."""
    args: dict[str, Any] = {"config": None, "no_color": False}
    if verb.raw:
        args["argv"] = []
    if verb.choices:
        args["what"] = None
    if verb.target:
        args["target" if verb.target == "one" else "targets"] = None if verb.target == "one" else []
    if verb.command:
        args["command"] = []
    for option in verb.options:
        args[option.name] = [] if option.kind == "texts" else option.default
    return args


def convert(kind: str, text: str) -> Any:
    """The value that ``text`` stands for; ValueError tells what was expected."""
    if kind == "seconds":
        from safesh.clock import parse_duration
        from safesh.errors import ConfigError

        try:
            return parse_duration(text)
        except ConfigError:
            raise ValueError(f"{text!r} is no duration; write 5, 1.5s, 2m or 1h30m") from None
    if kind == "count":
        if text.isascii() and text.isdigit() and len(text) < 10:
            return int(text)
        raise ValueError(f"{text!r} is no whole number from 0 on")
    return text


def parse(argv: list[str]) -> Parsed | None:
    """What a well-formed line asks for; None when click has to look at it."""
    verb: Verb | None = None
    args: dict[str, Any] = {"config": None, "no_color": False}
    words: list[str] = []
    options = {flag: option for option in GLOBAL_OPTIONS for flag in option.flags}
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if not word.startswith("-"):
            if verb is not None:
                words.append(word)
                continue
            verb = VERBS.get(word)
            if verb is None:
                return None
            args = {**defaults(verb), **args}
            if verb.raw:
                args["argv"] = argv[index:]
                return Parsed(verb.name, args)
            options.update((flag, option) for option in verb.options for flag in option.flags)
            continue
        if word == "--":
            if verb is None or not verb.command or index == len(argv) or words in ([], [""]) or len(words) > 1:
                return None
            args["command"] = argv[index:]
            break
        flag, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
        option = options.get(flag)
        if option is None:
            return None
        if option.kind == "flag":
            if equals:
                return None
            args[option.name] = True
            continue
        if not equals and index < len(argv):
            text = argv[index]
            index += 1
        if not text or text.startswith("-"):
            return None
        try:
            value = convert(option.kind, text)
            args[option.name] = [*args[option.name], value] if option.kind == "texts" else value
        except ValueError:
            return None
    if verb is None or not _place(verb, args, words):
        return None
    return Parsed(verb.name, args)


def _place(verb: Verb, args: dict[str, Any], words: list[str]) -> bool:
    """Put the positional words where the verb wants them; False when there are too many, or an unknown choice."""
    if verb.choices and words:
        args["what"], *words = words
        if args["what"] not in [word for word, _text in verb.choices]:
            return False
    if verb.target == "many":
        args["targets"] = words
    elif verb.target == "one" and len(words) <= 1:
        args["target"] = words[0] if words else None
    else:
        return not words
    return True
