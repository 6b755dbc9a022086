"""What ``exec``'s page says beyond its row in the grammar, for its options are its own; docs/exec.md tells more.

The terms of OPTIONS are read by the completion too: ``--scope group|child`` names its values, ``SIG`` a signal.
"""

from __future__ import annotations

ABOUT = (
    "No lock, no safe.toml, one process: safe.sh becomes the init of CMD. For scripts, and as pid 1 of a container: "
    'ENTRYPOINT ["safe.sh", "exec", "--"]. Every signal but KILL, STOP and CHLD is handed on, zombies are reaped.',
    "Options end at the first word that is none; `--` ends them for certain.",
)

OPTIONS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "OPTIONS: SIGNALS",
        (
            (
                "--scope group|child",
                "who gets a signal: CMD's whole process group, or CMD alone (default: group; with --session keep: "
                "child)",
            ),
            (
                "--rewrite SIG:SIG",
                "send the second where the first is received; 0 drops it; names or numbers, repeatable",
            ),
            (
                "--session new|pgrp|keep",
                "CMD leads a session of its own (default), or a process group of its own in the foreground of our "
                "terminal, or stays in ours",
            ),
            ("--pdeathsig SIG", "when our parent dies, CMD gets SIG; when we are killed, too"),
        ),
    ),
    (
        "OPTIONS: PROCESSES",
        (
            ("--no-subreaper", "do not adopt the orphans below us (pid 1 always does)"),
            ("--warn-reap", "name each adopted zombie that is reaped, on stderr"),
            (
                "--on-exit term|leave|end",
                "when CMD ends: TERM to what is left of its group (default); touch nothing; or end every process "
                "below us and say what it took",
            ),
        ),
    ),
    (
        "OPTIONS: TIME, AS TIMEOUT(1) DOES IT",
        (
            ("--timeout T", "after T send TERM; T: a number with s, m, h or d; 0: no limit"),
            ("--timeout-signal SIG", "send SIG instead"),
            ("--kill-after T", "KILL what still runs T after it was asked to end"),
            ("--preserve-status", "exit with CMD's status even when the time was over"),
        ),
    ),
    (
        "OPTIONS: OTHER",
        (
            ("--ok-exit N", "exit 0 where N would be the status; repeatable"),
            ("-v, --verbose", "name each signal sent, on stderr"),
            ("-h, --help", "this page"),
            ("--version", "print the version"),
        ),
    ),
)

CODES = (
    ("N, 128+N", "CMD's own, or 128 and the number of the signal that ended it"),
    ("124", "the time was over (137: CMD had to be killed)"),
    ("125", "something is wrong on our side, and an option of TIME is in use"),
    ("126", "CMD cannot be executed"),
    ("127", "CMD was not found"),
    ("2", "wrong usage"),
    ("71", "no process, memory or descriptor left"),
)
