"""What the system allows us, and its clocks."""

from __future__ import annotations

import os
import resource
import time

from safesh.clock import format_duration, format_size, format_time, wall
from safesh.diagnose.check import Finding, Subject, fail, ok, warn, worst
from safesh.diagnose.state import project_folders
from safesh.paths import InstancePaths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_FEWEST_FILES, _FEW_FILES = 32, 256
_ROOM = 0.9  # of a ceiling; above it there is hardly any left
_OLDEST_NOW = 1_735_689_600  # 2025-01-01: before it, the clock was never set
_SLACK = 60.0  # seconds that two clocks may differ before anybody needs to know
_CLOCK = "set the clock: timedatectl set-ntp true (or date)"


def check_files(_subject: Subject) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"{_shown(soft)} open files, {_shown(hard)} at most"
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        remedy = (
            f"ulimit -n {_FEW_FILES * 4}" if hard == -1 or hard >= _FEW_FILES * 4 else "raise nofile in limits.conf(5)"
        )
        return fail(found, remedy) if soft < _FEWEST_FILES else warn(found, remedy)
    return ok(found)


def check_processes(_subject: Subject) -> Finding:
    from safesh._platform import probe

    soft, _hard = resource.getrlimit(resource.RLIMIT_NPROC)
    used = probe.tasks_of(os.getuid())
    mine = f"{used} in use" if used is not None else "use unknown"
    findings = [ok(f"{_shown(soft)} processes and threads for you, {mine}")]
    # Root and whoever has CAP_SYS_RESOURCE are not held to it (getrlimit(2)).
    if used is not None and soft != resource.RLIM_INFINITY and os.getuid() != 0:
        findings[0] = _judge(findings[0].found, used, soft, "ulimit -u unlimited, or end some processes", spare=8)
    for group, most, current in probe.ceilings("pids"):
        text = f"{group}: {most} for its control group, {current} in use"
        findings.append(_judge(text, current, most, f"raise {group}/pids.max (systemd: TasksMax=)", spare=8))
    return worst(findings)


def check_memory(_subject: Subject) -> Finding:
    from safesh._platform import probe

    soft, _hard = resource.getrlimit(resource.RLIMIT_AS)
    findings = []
    if soft != resource.RLIM_INFINITY:
        findings.append(ok(f"{format_size(soft)} of addresses for each process (ulimit -v)"))
    for group, most, current in probe.ceilings("memory"):
        text = f"{group}: {format_size(most)} for its control group, {format_size(current)} in use"
        remedy = f"raise the memory limit of {group} (systemd: MemoryMax=), or run less in it"
        findings.append(_judge(text, current, most, remedy, spare=16 * 1024 * 1024))
    return worst(findings) if findings else ok("no limit")


def _judge(text: str, used: int, most: int, remedy: str, *, spare: int) -> Finding:
    """spare: with less than this left nothing can be started. The kernel's caches count as used: they warn at most."""
    if most < spare:
        return fail(text, remedy)
    return warn(text, remedy) if used > most * _ROOM or most - used < spare else ok(text)


def check_core(_subject: Subject) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if soft == 0:
        return ok(f"none is written ({_shown(hard)} at most); to have them: ulimit -c unlimited")
    size = "of any size" if soft == resource.RLIM_INFINITY else f"up to {format_size(soft)}"
    return ok(f"{size}, written where the kernel's core_pattern says")


def _shown(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def check_clock(_subject: Subject) -> Finding:
    from safesh import _platform

    now, boot_id = wall(), _platform.boot_id()
    if now < _OLDEST_NOW:
        return fail(f"it is {format_time(now)}, so it was never set", _CLOCK)
    booted = now - time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None
    findings = []
    for path, last in _records():
        name = os.path.basename(path)
        times = [last["since"], last["started_at"], last["supervised_since"], os.lstat(path).st_mtime]
        if max(times) > now + _SLACK:
            ahead = format_duration(max(times) - now)
            findings.append(warn(f"{name} was written {ahead} from now, so the clock was set back", _CLOCK))
        elif (
            booted is not None and last["supervisor"]["boot"] == boot_id and last["supervised_since"] < booted - _SLACK
        ):
            findings.append(warn(f"{name} was written in this boot, yet before it: the clock was set", _CLOCK))
    if findings:
        return worst(findings[:3])
    since = f", up since {format_time(booted)}" if booted is not None else ""
    return ok(f"{format_time(now)}{since}")


def _records() -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, content) of each status record that can be read."""
    from safesh.errors import SafeshError
    from safesh.instance.record import read_record

    for folder in project_folders():
        if os.path.islink(folder):
            continue
        for name in sorted(os.listdir(folder)):
            if name.endswith(".json"):
                try:
                    files = InstancePaths(folder, name.removesuffix(".json"))
                except SafeshError:
                    continue
                last, _problem = read_record(files)
                if last is not None:
                    yield files.record, last
