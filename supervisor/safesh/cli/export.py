"""``export``: what runs a target under us, in the words of systemd and of cron.

Every printed line stands for itself: absolute paths, its own PATH, the state folder in use now. The rules for special
letters are those of systemd.syntax(7) and systemd.service(5), COMMAND LINES, and of crontab(5).
"""

from __future__ import annotations

import os
import shlex
import shutil

from safesh.cli import render, targets
from safesh.cli.completion import ourselves
from safesh.config import resolve
from safesh.core import signals
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.model import TargetSpec

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Variables that decide which files and which Python are ours; what is set now must hold there too.
_KEPT = ("SAFESH_HOME", "XDG_STATE_HOME", "SAFESH_VENV", "SAFESH_PYTHON", "SAFESH_BACKEND")
_FOLDERS = ("SAFESH_HOME", "XDG_STATE_HOME", "SAFESH_VENV")
_MARGIN = 15.0  # seconds beyond the grace: killing, reaping, writing the record
_FOREVER = 1e9  # seconds; longer is "infinity"
_LONGEST_CRON = 998  # letters of a command: MAX_COMMAND of Vixie cron and its heirs, with room for the end


def run(args: dict[str, Any]) -> int:
    """Print the unit or the lines; nothing else is written anywhere."""
    kind = args["what"]
    if kind is None:
        raise UsageError("export to what?", place="export", hint="safe.sh export systemd|cron TARGET")
    if args["user"] and kind == "cron":
        raise UsageError("--user is for systemd; a crontab is its user's own", place="export", hint="leave it out")
    spec = _pick(args)
    render.say(_unit(spec, bool(args["user"])) if kind == "systemd" else _crontab(spec))
    return 0


def _pick(args: dict[str, Any]) -> TargetSpec:
    config = targets.open_config(args)
    if config is None:
        raise UsageError(
            "no safe.toml here or in any folder above", hint="go to your project, or name one with --config FILE"
        )
    names = list(config.targets)
    name = args["target"] or (names[0] if len(names) == 1 else None)
    if name is None:
        raise UsageError("which target?", place=config.path, hint=f"safe.sh export {args['what']} {'|'.join(names)}")
    # Not resolved where it is known: an env_file may be missing here and now.
    return config.targets.get(name) or resolve(config, name)


def _words(spec: TargetSpec, program: list[str], *rest: str) -> list[str]:
    """A command line of ours for this target, checked to be one that a line of text can hold."""
    words = [*program, *rest, "--config", spec.config]
    for word in words:
        _check(word)
    return words


def _check(text: str) -> str:
    if not text.isprintable():
        raise UsageError(
            f"{text!a} holds a character that cannot stand in a line of text",
            place="export",
            hint="give the file or folder a plain name",
        )
    return text


def _environment(spec: TargetSpec, *, path: bool) -> dict[str, str]:
    """What has to be set. path: also where the usual PATH would do."""
    found = {}
    for name in _KEPT:
        if value := os.environ.get(name):
            found[name] = _check(os.path.abspath(value) if name in _FOLDERS else value)
    search = _PATH
    # What the command's name means here must be what it means there.
    if "PATH" not in spec.env and "/" not in spec.command[0] and (program := shutil.which(spec.command[0])):
        folder = os.path.dirname(os.path.abspath(program))
        if folder not in _PATH.split(":") and ":" not in folder:
            search = f"{_check(folder)}:{_PATH}"
    return {"PATH": search, **found} if path or search != _PATH else found


# --- systemd --------------------------------------------------------------------------------------


def _unit(spec: TargetSpec, user: bool) -> str:
    name = unit_name(spec.project, spec.name)
    control = "systemctl --user" if user else "systemctl"
    place = "~/.config/systemd/user" if user else "/etc/systemd/system"
    lines = [
        f"# Target {spec.name} of {spec.config}, held by safesh.",
        f"# To install: save this as {place}/{name}, then",
        f"#   {control} daemon-reload && {control} enable --now {name}",
        *(["#   loginctl enable-linger    # to have it at boot, and after you logged out"] if user else []),
        "",
        "[Unit]",
        f"Description={_percent(f'{spec.name} ({spec.project}), held by safesh')}",
        *([] if user else ["After=network.target"]),
    ]
    if needed := [unit_name(spec.project, other) for other in spec.depends_on]:
        lines += [
            "# Export these too: a dependency that is not up by then is started in here and ends with this unit.",
            f"Wants={' '.join(map(_percent, needed))}",
            f"After={' '.join(map(_percent, needed))}",
        ]
    lines += ["", "[Service]", *_start_lines(spec, user)]
    lines += [
        "# The supervisor gets SIGTERM and ends the whole tree, within the target's grace; then systemd kills.",
        "KillMode=mixed",
        f"TimeoutStopSec={_seconds(spec.stop.grace + _MARGIN)}",
        f"SuccessExitStatus={' '.join(map(str, _stopped(spec)))}",
        "# Restarts are safesh's business: systemd steps in when the supervisor was killed, not when it gave up.",
        "Restart=on-abnormal",
        "RestartSec=1s",
        "# A process that the kernel kills for memory ends a run, which safesh sees and answers; not the service.",
        "OOMPolicy=continue",
        "# Lets safesh make a control group for each run.",
        "Delegate=yes",
        "",
        "[Install]",
        f"WantedBy={'default.target' if user else 'multi-user.target'}",
    ]
    return "\n".join(lines)


def _start_lines(spec: TargetSpec, user: bool) -> list[str]:
    program, *rest = _words(spec, ourselves(), "start", spec.name)
    if set(program) & set("\"'\\"):  # systemd refuses programs of such names, quoted or not
        program, *rest = ["/bin/sh", "-c", 'exec "$0" "$@"', program, *rest]
    lines = ["Type=exec"]
    if spec.ready.kind:
        lines = [
            "# The supervisor says READY=1 when the target is. How long that may take is safe.toml's ready.within.",
            "Type=notify",
            "NotifyAccess=main",
            "TimeoutStartSec=infinity",
        ]
    if not user:
        lines.append(f"User={_user()}")  # also for root: only then systemd sets HOME
    lines.append(f"WorkingDirectory={_folder(os.path.dirname(spec.config))}")
    lines += [f"Environment={_quoted(f'{key}={value}')}" for key, value in _environment(spec, path=False).items()]
    # In the program's own name a dollar stands for itself (it may not be a variable), in the others for a variable.
    lines.append("ExecStart=" + " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in rest)]))
    return lines


def _stopped(spec: TargetSpec) -> list[int]:
    """The statuses of a target that ended as it was told: by systemd's SIGTERM, sent on, or by its stop signal."""
    sent_on = {signals.number(key): value for key, value in spec.signals.items()}.get(signals.NUMBERS["SIGTERM"])
    names = [spec.stop.signal, "SIGTERM" if sent_on is None else sent_on]
    return sorted({128 + signals.number(name) for name in names if name not in ("", "0")})


def unit_name(project: str, target: str) -> str:
    """The service's name; other letters than a unit's name may have become ``\\x2f``, as by systemd-escape(1)."""
    text = f"safesh-{project}-{target}"
    plain = "".join(
        chr(byte) if (chr(byte).isalnum() and byte < 128) or chr(byte) in ":_.-" else f"\\x{byte:02x}"
        for byte in text.encode()
    )
    return plain + ".service"


def _percent(text: str) -> str:
    return _check(text).replace("%", "%%")


def _quoted(word: str) -> str:
    """A word of a command line or an assignment, in quotes where it needs them."""
    text = _percent(word)
    if text and all(letter.isalnum() or letter in "/_.,:=+@%-" for letter in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _folder(path: str) -> str:
    """A path that is not unquoted: a blank or a backslash at its end would be lost, or join the next line."""
    text = _percent(path)
    return text + "/" if text[-1] in " \\" else text


def _seconds(value: float) -> str:
    return "infinity" if value >= _FOREVER else f"{value:.15g}s"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


# --- cron -----------------------------------------------------------------------------------------


def _crontab(spec: TargetSpec) -> str:
    settings = [f"{name}={_shell_word(value)}" for name, value in _environment(spec, path=True).items()]
    start = _shell(settings, _words(spec, ourselves(), "start", spec.name, "--detach"))
    lines = [
        f"# Target {spec.name} of {spec.config}, held by safesh. To install: crontab -e",
        "@reboot " + _fitting(f"{start} >/dev/null"),
        "# Every minute: says nothing while all is well, starts it again where it is dead. Without this line it is",
        "# started at boot only; with it, a stop lasts no longer than a minute.",
        "* * * * * " + _fitting(_every_minute(spec, settings, start)),
    ]
    return "\n".join(lines)


def _every_minute(spec: TargetSpec, settings: list[str], start: str) -> str:
    folder, name = os.path.split(ourselves()[0])
    health = os.path.join(folder, "safe-health.sh")
    if name == "safe.sh" and os.access(health, os.X_OK):
        return _shell(settings, _words(spec, [health], spec.name, "--start"))
    # 75: it runs already, which is what is wanted.
    return f'e=$({start} 2>&1 >/dev/null); s=$?; case $s in 0|75) ;; *) echo "$e" >&2; exit $s ;; esac'


def _shell(settings: list[str], words: list[str]) -> str:
    return " ".join([*settings, *map(_shell_word, words)])


def _shell_word(word: str) -> str:
    r"""A word for sh, in a crontab.

    There an unescaped % ends the command, and \% is one; whether the backslash is taken away is each cron's own
    business, so it must mean nothing to the shell either: outside of quotes, and behind no other backslash.
    """
    return r"\%".join(shlex.quote(part) if part else "" for part in word.split("%")) or "''"


def _fitting(command: str) -> str:
    if len(command.encode()) > _LONGEST_CRON:
        raise UsageError(
            f"cron takes commands of {_LONGEST_CRON} letters at most, and this one has {len(command.encode())}",
            place="export",
            hint="use shorter paths (a symlink to safe.sh), or export systemd",
        )
    return command
