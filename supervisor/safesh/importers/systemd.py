"""systemd service units: one unit, its drop-ins included, as one target.

From systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.kill(5), systemd.resource-control(5) of systemd 252.
"""

from __future__ import annotations

import glob
import math
import os
import pwd
import re
from typing import Any

from safesh import _envfile
from safesh.errors import ConfigError
from safesh.importers import (
    Origin,
    Plan,
    Target,
    _command,
    duration,
    name_for,
    near,
    read_file,
    shown_path,
    size,
    unitfile,
)
from safesh.importers._reasons import reason_for
from safesh.importers.unitfile import Assignment

_KILL = re.compile(r"^(?:/usr)?(?:/s?bin/)?kill\s+(?:-s\s*|-)(?:SIG)?([A-Z]+[0-9]?|\d+)\s+\$(?:\{MAINPID\}|MAINPID)$")
_FOREVER = 520 * 7 * 86400.0  # ten years, where there is no word for infinity


def template_of(path: str) -> str:
    """The file that holds the unit ``path``: ``NAME@.service`` for an instance that has none of its own."""
    folder, name = os.path.split(path)
    prefix, at, _instance = name.partition("@")
    template = os.path.join(folder, prefix + "@.service")
    wanted = bool(at) and name.endswith(".service") and not os.path.lexists(path)
    return template if wanted and os.path.isfile(template) else path


def plan(text: str, path: str, real: str, folder: str) -> Plan:
    """What the unit ``path`` describes (``real``: the file it was read from), for a safe.toml in ``folder``."""
    return _Unit(text, path, real, folder).plan()


class _Unit:
    """A unit on its way into a plan."""

    def __init__(self, text: str, path: str, real: str, folder: str) -> None:
        self.found = Plan(source=shown_path(real), kind="systemd")
        self.folder = folder
        name = os.path.basename(path)
        stem = name.removesuffix(".service")
        assignments, broken = unitfile.parse(text, self.found.source)
        for drop_in in sorted(glob.glob(glob.escape(path) + ".d/*.conf"), key=os.path.basename):
            more, private = read_file(drop_in)
            self.found.private = self.found.private or private
            own, bad = unitfile.parse(more, shown_path(drop_in))
            assignments += own
            broken += bad
        for origin in broken:
            self.found.note(origin, "is neither a section nor KEY=VALUE; systemd passes over it")
        self.all = assignments
        wanted = " ".join(one.value for one in assignments if one.key == "WantedBy")
        self.user = "/systemd/user/" in real or "default.target" in wanted.split()
        origin = Origin(file=self.found.source, line=1, text=name)
        self.target = Target(name=name_for(stem.rstrip("@"), []), origin=origin)
        self.specifiers = unitfile.Specifiers(name, path, self.user)
        self.done: set[int] = set()

    def plan(self) -> Plan:
        target = self.target
        for one in self.take("Unit", "Description"):
            target.comments.append(one.value)
        for one in self.take("Unit", "Documentation"):
            target.comments.append(one.value)
        self.environment()
        self.command()
        self.folder_and_user()
        self.restart()
        self.stop()
        self.limits()
        for index, one in enumerate(self.all):
            if index not in self.done and one.value:
                self.note(one, reason_for(one))
        for used in sorted(self.specifiers.used):
            target.comments.append(f"Put in as it is here and now: {used}.")
        self.found.add(target)
        return self.found

    # --- looking up -------------------------------------------------------------------------------

    def take(self, section: str, key: str) -> list[Assignment]:
        """The assignments in force: those after the last empty one. They count as seen to."""
        taken: list[Assignment] = []
        for index, one in enumerate(self.all):
            if one.section == section and one.key == key:
                self.done.add(index)
                taken = [*taken, one] if one.value else []
        return taken

    def last(self, *keys: str, section: str = "Service") -> Assignment | None:
        """The assignment that counts of a key that has one value; those before it are noted."""
        taken = [one for key in keys for one in self.take(section, key)]
        taken.sort(key=self.all.index)
        for one in taken[:-1]:
            self.note(one, f"is said again in {taken[-1].origin.file}:{taken[-1].origin.line}, which counts")
        return taken[-1] if taken else None

    def note(self, one: Assignment, reason: str) -> None:
        self.found.note(one.origin, reason, self.target.name)

    def expanded(self, one: Assignment, text: str | None = None) -> str | None:
        """The value with its specifiers replaced; None, and a note, where that cannot be done."""
        try:
            return self.specifiers.expand(one.value if text is None else text)
        except ValueError as error:
            self.note(one, str(error))
            return None

    def seconds(self, one: Assignment | None) -> float | None:
        if one is None:
            return None
        try:
            return unitfile.timespan(one.value)
        except ValueError as error:
            self.note(one, f"{error}; systemd passes over it")
            return None

    # --- what is run ------------------------------------------------------------------------------

    def environment(self) -> None:
        """Environment= and EnvironmentFile=; a file's value wins in systemd, in safe.toml the table's does."""
        env: dict[str, str] = {}
        origin = self.target.origin
        for one in self.take("Service", "Environment"):
            origin = one.origin
            try:
                items = unitfile.words(one.value)
            except ValueError as error:
                self.note(one, str(error))
                continue
            for item in items:
                key, equals, value = item.removeprefix("\0").partition("=")
                if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
                    self.note(one, f"{item!r} is no NAME=VALUE; systemd passes over it")
                elif (text := self.expanded(one, value)) is not None:
                    env[key] = text
        self.static = dict(env)
        files = self.take("Service", "EnvironmentFile")
        for one in files:
            self.environment_file(one, env)
        if files:
            self.static = {}
        self.take("Service", "PassEnvironment")  # everything of the starter's is passed
        if env:
            self.target.set("env", env, origin)

    def environment_file(self, one: Assignment, env: dict[str, str]) -> None:
        optional = one.value.startswith("-")
        path = self.expanded(one, one.value.removeprefix("-"))
        if path is None:
            return
        if "env_file" in self.target.values or any(letter in path for letter in "*?["):
            self.note(one, "safe.toml reads one env_file, and no pattern; join the files")
            return
        if optional and not os.path.exists(path):
            self.note(one, f"may be missing, and is: once it is there, add env_file = {path!r}")
            return
        try:
            inside = _envfile.read(path, shown_path(path)) if os.path.exists(path) else {}
        except ConfigError as error:
            self.note(one, f"safesh cannot read it: {error}")
            return
        for key in [key for key in env if key in inside]:
            self.target.comments.append(f"{key} is {near(path, self.folder)}'s, which wins over Environment=.")
            del env[key]
        self.target.set("env_file", near(path, self.folder), one.origin)
        if optional:
            self.note(one, "the file is there now; should it be missing, a start will be refused")

    def command(self) -> None:
        kind = self.last("Type")
        type_ = kind.value if kind else "simple"
        waiting = self.last("TimeoutStartSec")
        if kind is not None and type_ in ("notify", "notify-reload"):
            self.found.offer(self.target, "notify", True, kind.origin)
            within = self.seconds(waiting)
            if "ready.notify" in self.target.values:
                within = 90.0 if within is None else min(within or _FOREVER, _FOREVER)  # DefaultTimeoutStartSec
                self.target.set("ready.within", duration(within), waiting.origin if waiting else None)
            elif waiting is not None:
                self.note(waiting, "nothing is waited for: the target counts as running at once")
        elif waiting is not None:
            self.note(waiting, "nothing is waited for: the target counts as running at once")
        if kind is not None and type_ == "forking":
            self.note(kind, "a program that goes into the background is ended: let it stay in the foreground")
        elif kind is not None and type_ == "dbus":
            self.note(kind, "nobody waits for its name on the bus: the target counts as running at once")
        elif kind is not None and type_ not in ("simple", "exec", "oneshot", "idle", "notify", "notify-reload"):
            self.note(kind, "systemd has no such type")
        starts = self.commands("ExecStart")
        if len(starts) > 1 and type_ != "oneshot":
            self.note(starts[-1].source, "only Type=oneshot may have several; they are run one after the other")
        before = self.commands("ExecStartPre")
        if starts and starts[-1].optional:
            self.note(starts[-1].source, "'-': a failure counts as a failure here")
        if starts:
            _command.set_command(self.found, self.target, before, starts, self.static)
        for one in self.take("Service", "ExecReload"):
            if sent := _KILL.match(one.value):
                self.target.comments.append(
                    f"Reload: kill -{sent[1]} $(cat the pid file of the instance); it is sent on."
                )
            else:
                self.note(one, "there is no reload; signals sent to the supervisor are sent on to the target")

    def commands(self, key: str) -> list[_command.Line]:
        lines: list[_command.Line] = []
        for one in self.take("Service", key):
            try:
                lines += _command.read(one, self.specifiers)
            except ValueError as error:
                self.note(one, str(error))
        for line in lines:
            for problem in line.problems:
                self.note(line.source, problem)
            if line.privileged and self.find("User"):
                self.note(line.source, f"'{line.privileged}': all commands run as whoever starts the target")
        return lines

    def find(self, key: str) -> bool:
        return any(one.section == "Service" and one.key == key and one.value for one in self.all)

    def folder_and_user(self) -> None:
        one = self.last("WorkingDirectory")
        folder: str | None = "~" if self.user else "/"  # systemd's own default, unlike ours
        if one is not None:
            folder = self.expanded(one, one.value.removeprefix("-"))
            if one.value.startswith("-"):
                self.note(one, "'-': should the folder be missing, a start will be refused")
        if folder is not None:
            place = near(folder, self.folder) if folder.startswith("/") else folder
            self.target.set("cwd", place, one.origin if one else None)
        user = self.last("User")
        if user is not None and (name := self.expanded(user)) is not None and not _is_me(name):
            self.found.offer(self.target, "user", name, user.origin)
        if (mask := self.last("UMask")) is not None:
            self.found.offer(self.target, "umask", mask.value, mask.origin)
        if (nice := self.last("Nice")) is not None:
            value: Any = int(nice.value) if re.fullmatch(r"[+-]?\d+", nice.value) else nice.value
            self.found.offer(self.target, "nice", value, nice.origin)

    # --- how it is held ---------------------------------------------------------------------------

    def restart(self) -> None:
        one = self.last("Restart")
        wait, steps, longest = self.last("RestartSec"), self.last("RestartSteps"), self.last("RestartMaxDelaySec")
        burst = self.last("StartLimitBurst", section="Unit") or self.last("StartLimitBurst")
        keys = ("StartLimitIntervalSec", "StartLimitInterval")
        window = self.last(*keys, section="Unit") or self.last(*keys)
        policy = one.value if one else "no"
        near_enough = {"on-abnormal": "on-failure", "on-abort": "on-failure", "on-watchdog": "on-failure"}
        if one is not None and policy not in ("no", "always", "on-failure"):
            said = f"the nearest, {near_enough[policy]}, was taken" if policy in near_enough else "it is not restarted"
            self.note(one, f"safe.toml knows no, on-failure and always; {said}")
        policy = near_enough.get(policy, policy)
        if one is None or policy not in ("always", "on-failure"):
            for other in (wait, steps, longest, burst, window):
                if other is not None:
                    self.note(other, "has no effect without a restart")
            return
        self.target.set("restart", policy, one.origin)
        first = self.seconds(wait)
        first = 0.1 if first is None else min(first, _FOREVER)
        most, factor = first, 1.0
        if longest is not None and steps is not None and steps.value.isdigit() and int(steps.value):
            most = max(first, min(self.seconds(longest) or first, _FOREVER))
            factor = round((most / max(first, 0.001)) ** (1 / int(steps.value)), 3)
        at = wait.origin if wait else None
        self.target.set("backoff.initial", duration(first), at)
        self.target.set("backoff.factor", factor, steps.origin if steps else None)
        self.target.set("backoff.max", duration(most), longest.origin if longest else at)
        self.target.set("backoff.jitter", 0, at)
        count = int(burst.value) if burst is not None and burst.value.isdigit() else 5
        interval = self.seconds(window)
        interval = 10.0 if interval is None else min(interval, _FOREVER)
        self.target.set("start_limit.count", count if interval else 0, burst.origin if burst else None)
        if interval:
            self.target.set("start_limit.window", duration(interval), window.origin if window else None)

    def stop(self) -> None:
        signal = self.last("KillSignal")
        if signal is not None and signal.value not in ("SIGTERM", "TERM", "15"):
            self.target.set("stop.signal", int(signal.value) if signal.value.isdigit() else signal.value, signal.origin)
        for one in self.take("Service", "ExecStop"):
            if asked := _KILL.match(one.value.removeprefix("-")):
                number = asked[1]
                self.target.set("stop.signal", int(number) if number.isdigit() else "SIG" + number, one.origin)
            else:
                self.note(one, "nothing is run to stop it: it gets the stop signal")
        mode = self.last("KillMode")
        scope = "main" if mode is not None and mode.value in ("mixed", "process", "none") else "tree"
        self.target.set("stop.scope", scope, mode.origin if mode else None)
        if mode is not None and mode.value in ("process", "none"):
            self.note(mode, "whoever is left of the whole tree is always ended")
        timeout = self.last("TimeoutStopSec", "TimeoutSec")
        grace = self.seconds(timeout)
        if grace is None:
            grace = 90.0  # DefaultTimeoutStopSec
        if timeout is not None and math.isinf(grace):
            self.note(timeout, "a stop has an end: one day was taken")
            grace = 86400.0
        self.target.set("stop.grace", duration(grace), timeout.origin if timeout else None)
        for key, fine in (("SendSIGKILL", unitfile.TRUE), ("SendSIGHUP", ("0", "no", "n", "false", "f", "off"))):
            other = self.last(key)
            if other is not None and other.value.lower() not in fine:
                self.note(other, "the stop signal, the grace, then SIGKILL: nothing else is sent, nothing is left out")

    def limits(self) -> None:
        """What has a counterpart in ``limits`` and ``health``, as far as the schema has them."""
        for key in ("MemoryMax", "MemoryLimit"):
            if (one := self.last(key)) is not None and one.value != "infinity":
                try:
                    most = size(unitfile.size(one.value))
                except ValueError as error:
                    self.note(one, str(error))
                else:
                    self.found.offer(self.target, "memory", self.ending(most), one.origin)
        if (one := self.last("RuntimeMaxSec")) is not None:
            seconds = self.seconds(one)
            if seconds and not math.isinf(seconds):
                self.found.offer(self.target, "max runtime", self.ending(duration(seconds)), one.origin)
        if (one := self.last("TasksMax")) is not None and one.value.isdigit():
            self.found.offer(self.target, "processes", {"most": int(one.value), "action": "warn"}, one.origin)
            self.note(one, "systemd counts threads too, and lets no more begin; here a warning is given")
        elif one is not None and one.value != "infinity":
            self.note(one, "a share of the machine's has no counterpart")
        if (one := self.last("CPUQuota")) is not None:
            percent = one.value.removesuffix("%")
            if percent.isdigit() and one.value != percent:
                value = {"most": int(percent), "for": "1m", "action": "warn"}
                self.found.offer(self.target, "cpu", value, one.origin)
            self.note(one, "systemd slows it down to that; here a warning is given")
        self.watchdog()
        if (one := self.last("SuccessExitStatus")) is not None:
            codes = [int(word) for word in one.value.split() if word.isdigit()]
            self.found.offer(self.target, "ok exits", codes, one.origin)

    def ending(self, most: int | str) -> Any:
        """A limit that ends the run: whether it is started again is Restart='s word."""
        return most if "restart" in self.target.values else {"most": most, "action": "stop"}

    def watchdog(self) -> None:
        one = self.last("WatchdogSec")
        seconds = self.seconds(one)
        access = self.last("NotifyAccess")
        if one is not None and seconds and not math.isinf(seconds):
            self.found.offer(self.target, "watchdog", True, one.origin)
            if "health.notify" in self.target.values:
                self.target.set("health.max_age", duration(seconds), one.origin)
                self.target.set("health.interval", duration(seconds / 2), one.origin)
                self.target.set("health.retries", 1, one.origin)
                after = "restart" if "restart" in self.target.values else "stop"
                self.target.set("health.on_unhealthy", after, one.origin)
        listens = "ready.notify" in self.target.values or "health.notify" in self.target.values
        if access is not None and not (listens and access.value == "all"):
            self.note(access, "the whole tree may notify" if listens else "nobody listens to sd_notify")


def _is_me(name: str) -> bool:
    try:
        return (int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid) == os.geteuid()
    except (KeyError, ValueError):
        return False
