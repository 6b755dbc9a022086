"""Tests inside a pid namespace of their own (a pytest plugin): ``@pytest.mark.pidns``.

What forks without end, kills by pattern or sends SIGKILL at random must not be able to reach a process
that is not ours. So a test marked ``pidns`` (a function, a class or, by ``pytestmark``, a module) never
runs in this process: the marked tests of a module run in one child pytest, whose pid namespace
(pid_namespaces(7)) ends with it, bounded in time and in processes; their reports are passed on. Where
no such namespace can be made the tests are skipped and say so. ``require_pidns()`` guards dangerous helpers.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from helpers.nsguard import INIT_NAME, OUTER, inside, namespace, require_pidns

__all__ = ["inside", "require_pidns", "unshare"]

_REPORTS = "SAFESH_TEST_PIDNS_REPORTS"  # inside: the descriptor that reports go to
_ITEMS = "SAFESH_TEST_PIDNS_ITEMS"  # inside: the file that lists the tests to run
MOST_PROCESSES = 1000
_INIT = Path(__file__).with_name(INIT_NAME)


@cache
def unshare() -> tuple[tuple[str, ...], str]:
    """(the command that runs its arguments in a new pid namespace, ""), or ((), why there is none)."""
    base = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    why = ""
    for more in ((), ("--user", "--map-root-user")):
        try:
            done = subprocess.run(
                [*base[:1], *more, *base[1:], "true"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return (), str(error)
        if done.returncode == 0:
            return (*base[:1], *more, *base[1:]), ""
        why = why or done.stderr.strip()
    return (), why


# --- outside: marked tests become stand-ins ---------------------------------------------------


class StandIn(pytest.Item):
    """Takes a marked test's place and shows the reports that its twin inside the namespace made."""

    def __init__(self, *, twin: pytest.Function, group: Group, **options: Any) -> None:
        super().__init__(**options)
        self.twin = twin
        self.group = group
        self.reports: dict[str, pytest.TestReport] = {}
        self.own_markers = list(twin.own_markers)
        self.extra_keyword_matches = set(twin.extra_keyword_matches)

    def setup(self) -> None:
        command, why = unshare()
        if not command:
            pytest.skip(f"not run: no pid namespace ({why})")
        self.reports = self.group.reports_of(self)

    def runtest(self) -> None:
        """Nothing: it has been run."""

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.twin.reportinfo()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if excinfo.errisinstance(NamespaceFailure):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)


class NamespaceFailure(Exception):
    """The run inside the namespace ended without a report on a test."""


class Group:
    """The marked tests of one module and the namespace that serves them, made when the first is due."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self.config = config
        self.path = path
        self.items: list[StandIn] = []
        self._started = False
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._pipe = -1
        self._buffer = b""
        self._waiting: dict[str, dict[str, pytest.TestReport]] = {}
        self._output: Any = None
        self._told = ""
        self._names = ""

    def reports_of(self, item: StandIn) -> dict[str, pytest.TestReport]:
        """The reports on this test, by phase, as soon as its teardown is done inside."""
        if not self._started:
            self._started = True
            self._start()
        while "teardown" not in (reports := self._waiting.get(item.nodeid, {})):
            if not self._read():
                self.close()
                raise NamespaceFailure(f"{self._told}\nthe run in the pid namespace ended before this test did")
        if item is self.items[-1]:
            code = self.close(patience=30)
            # 0 and 1 are in the reports; anything else concerns the run: leaks at its end, an internal error.
            failed = any(report.failed for phases in self._waiting.values() for report in phases.values())
            if code != (1 if failed else 0):
                raise NamespaceFailure(f"{self._told}\nthe run in the pid namespace ended with status {code}")
        return reports

    def _start(self) -> None:
        fd, self._names = tempfile.mkstemp(prefix="sft-items-")
        with open(fd, "w", encoding="utf-8") as file:
            json.dump([item.nodeid for item in self.items], file)
        inner_life, self._lifeline = os.pipe()
        self._pipe, inner_pipe = os.pipe()
        environment = {**os.environ, OUTER: namespace(), _REPORTS: str(inner_pipe), _ITEMS: self._names}
        environment.pop("PYTEST_CURRENT_TEST", None)
        self._output = tempfile.TemporaryFile()
        capture = self.config.getoption("capture") != "no"
        seconds = 30 + sum(limit_of(item.twin) for item in self.items)
        init = [sys.executable, "-I", "-S", str(_INIT), str(seconds), str(MOST_PROCESSES), str(inner_life)]
        try:
            self._process = subprocess.Popen(
                [*unshare()[0], *init, *_child_command(self.config), str(self.path)],
                cwd=self.config.rootpath,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._output if capture else None,
                stderr=subprocess.STDOUT if capture else None,
                pass_fds=(inner_life, inner_pipe),
            )
        finally:
            os.close(inner_life)
            os.close(inner_pipe)

    def _read(self) -> bool:
        """Take in what came; False at the end. The init inside keeps the deadline."""
        if self._pipe < 0:
            return False
        select.select([self._pipe], [], [])
        chunk = os.read(self._pipe, 1 << 16)
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            report = _revive(self.config, json.loads(line))
            self._waiting.setdefault(report.nodeid, {})[report.when or ""] = report
        return bool(chunk)

    def close(self, patience: float = 0) -> int | None:
        """End the namespace and everything in it; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        limit = time.monotonic() + patience
        try:
            process.wait(max(0.01, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        os.close(self._lifeline)
        try:
            code = process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()  # --kill-child ends pid 1, which ends the rest
            code = process.wait()
        os.close(self._pipe)
        self._lifeline = self._pipe = -1
        os.unlink(self._names)
        self._output.seek(0)
        self._told = self._output.read().decode("utf-8", "replace")[-8000:]
        self._output.close()
        return code


def limit_of(item: pytest.Item) -> float:
    """The deadline of one test in seconds: its ``timeout`` mark, the option, the ini value, or 60."""
    mark = item.get_closest_marker("timeout")
    value: Any = None
    if mark is not None:
        value = mark.args[0] if mark.args else mark.kwargs.get("timeout")
    if value is None:
        value = item.config.getoption("timeout", None)
    if value is None:
        try:
            value = item.config.getini("timeout")
        except (KeyError, ValueError):
            value = None
    return float(value or 60)


def _child_command(config: pytest.Config) -> list[str]:
    """This very pytest again, for chosen tests: same root, same file of settings, same options that matter."""
    option = config.option
    command = [sys.executable, "-m", "pytest", "--rootdir", str(config.rootpath), "-p", "no:cacheprovider", "-q"]
    if config.inipath is not None:
        command += ["-c", str(config.inipath)]
    for name in option.plugins:
        command += ["-p", name]
    for value in option.override_ini or []:
        command += ["-o", value]
    for value in option.pythonwarnings or []:
        command += ["-W", value]
    command += [f"--tb={option.tbstyle}", f"--capture={option.capture}"]
    command += ["-m", option.markexpr]
    if getattr(option, "timeout", None) is not None:
        command.append(f"--timeout={option.timeout}")
    if getattr(option, "seed", None) is not None:
        command.append(f"--seed={option.seed}")
    if option.showlocals:
        command.append("--showlocals")
    return command


def _revive(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    """A report from what JSON left of it: tuples came back as lists."""
    for key in ("location", "longrepr"):
        if isinstance(data.get(key), list):
            data[key] = tuple(data[key])
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
    return report


_GROUPS = pytest.StashKey[dict[Path, Group]]()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if inside():
        chosen = config.stash.get(_CHOSEN, None)
        if chosen is not None:
            by_name = {item.nodeid: item for item in items}
            items[:] = [by_name[name] for name in chosen if name in by_name]
        return
    groups: dict[Path, Group] = {}
    for place, item in enumerate(items):
        if isinstance(item, pytest.Function) and item.get_closest_marker("pidns"):
            group = groups.setdefault(item.path, Group(config, item.path))
            assert item.parent is not None
            stand_in = StandIn.from_parent(item.parent, name=item.name, nodeid=item.nodeid, twin=item, group=group)
            group.items.append(stand_in)
            items[place] = stand_in
    for group in groups.values():
        total = sum(limit_of(item.twin) for item in group.items)
        for item in group.items:
            # The first waits for its own turn only, but a stuck namespace is ended by its init, not from here.
            item.add_marker(pytest.mark.timeout(total + 60), append=False)
    # The marked tests of a module stay together and last in it, so that no other test runs beside them.
    order = {path: place for place, path in reversed(list(enumerate(item.path for item in items)))}
    items.sort(key=lambda item: (order[item.path], isinstance(item, StandIn)))
    config.stash[_GROUPS] = groups


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> pytest.TestReport | None:
    if isinstance(item, StandIn):
        report = item.reports.get(call.when)
        if report is not None and (call.excinfo is None or call.when != "setup"):
            return report
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    """The last barrier: whatever else went wrong, a marked body does not run out here."""
    if pyfuncitem.get_closest_marker("pidns") and not inside():
        pytest.fail("refused: a test marked pidns runs only inside its own pid namespace", pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    for group in session.config.stash.get(_GROUPS, {}).values():
        group.close()  # after -x, Ctrl-C or an internal error one may still be up


# --- inside: reports go out -------------------------------------------------------------------


class Reporter:
    """Writes every report, as one line of JSON, to the run outside."""

    def __init__(self, config: pytest.Config, fd: int) -> None:
        self.config = config
        self.fd = fd
        os.set_inheritable(fd, False)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        line = json.dumps(data, default=str).encode() + b"\n"
        while line:
            line = line[os.write(self.fd, line) :]


_CHOSEN = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "pidns: runs inside its own pid namespace, or not at all (helpers/pidns.py)")
    if inside() and _ITEMS in os.environ:
        # Taken out of the environment: a pytest that a test starts in here is not this one.
        config.stash[_CHOSEN] = json.loads(Path(os.environ.pop(_ITEMS)).read_text(encoding="utf-8"))
        config.pluginmanager.register(Reporter(config, int(os.environ.pop(_REPORTS))), "safesh-pidns-reporter")
