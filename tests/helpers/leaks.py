"""Nothing is left behind: checked after every test and at the end of the run (a pytest plugin).

After a test: no new process, descriptor, thread, signal handler or mask, working directory or environment
variable. At the end of the run: no process anywhere with this run's mark in its environment, no
``safesh-*`` control group or mount, no file in the work tree or in the real state folder. What is found is
named, fails the run, and, where it is a process, is ended: the mark (a random id) proves it ours.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import pidns, procs

SESSION_MARK = "SAFESH_TEST_SESSION"
_IGNORED = ("__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pyc", ".egg-info")
_SETTLE = 1.0  # seconds in which what was told to end may still do so


class Snapshot:
    """What this process holds at one moment."""

    def __init__(self) -> None:
        self.descriptors = descriptors()
        self.handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(self.wakeup)
        self.directory = os.getcwd()
        self.environment = dict(os.environ)
        self.threads = set(threading.enumerate())
        # Numbers only, for this is done some thousand times: who came to a number that went during the same test is
        # seen at the end of the run at the latest, by the mark.
        self.pids = set(os.listdir("/proc"))

    def new_processes(self) -> list[procs.Process]:
        """Processes of ours that came since: children, marked ones and, inside a pid namespace, all."""
        alone = pidns.inside()
        found = []
        for name in set(os.listdir("/proc")) - self.pids:
            one = procs.look(int(name)) if name.isdigit() else None
            if one is None:
                continue
            child = one.ppid == os.getpid()
            orphan = alone and not one.dead
            if child or orphan or (not one.dead and procs.environ(one.pid).get(SESSION_MARK) == session_id()):
                found.append(one)
        return found

    def leaks(self) -> list[str]:
        """One line for each thing that is left over or changed since; processes among them are ended."""
        found = []
        if self.new_processes() or set(threading.enumerate()) - self.threads:
            try:
                procs.wait_until(lambda: not self.new_processes(), _SETTLE)
            except AssertionError:
                left = self.new_processes()
                found += [f"process left: {one}" for one in left]
                self._end_processes(left)
            for thread in set(threading.enumerate()) - self.threads:
                thread.join(_SETTLE)
                if thread.is_alive():
                    found.append(f"thread left: {thread.name}")
        if descriptors() != self.descriptors:
            gc.collect()  # a cycle of garbage is a matter of when, not of whether
            now = descriptors()
            for fd in sorted(now.keys() | self.descriptors.keys()):
                before, after = self.descriptors.get(fd), now.get(fd)
                if before != after:
                    found.append(f"descriptor {fd}: {before or 'closed'} before, {after or 'closed'} now")
        for number, handler in self.handlers.items():
            timer = getattr(handler, "__module__", "") == "pytest_timeout"  # it leaves when a test fails
            if signal.getsignal(number) != handler and not timer:
                found.append(f"handler of {number!s} changed: {signal.getsignal(number)}")
                if handler is not None:
                    signal.signal(number, handler)
        mask = signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)
        if mask != self.mask:
            found.append(f"blocked signals changed: {sorted(mask ^ self.mask)}")
        wakeup = signal.set_wakeup_fd(self.wakeup)
        if wakeup != self.wakeup:
            found.append(f"signal wakeup descriptor changed to {wakeup}")
        try:
            here = os.getcwd()
        except FileNotFoundError:
            here = ""
        if here != self.directory:
            found.append("working directory changed")
            os.chdir(self.directory)
        for name in sorted(os.environ.keys() | self.environment.keys()):
            if name != "PYTEST_CURRENT_TEST" and os.environ.get(name) != self.environment.get(name):
                found.append(f"environment variable {name} changed")
                os.environ.pop(name, None)
                if name in self.environment:
                    os.environ[name] = self.environment[name]
        return found

    def _end_processes(self, left: list[procs.Process]) -> None:
        for one in left:
            if one.dead:
                try:
                    os.waitpid(one.pid, os.WNOHANG)  # a zombie child: nobody else waits for it now
                except ChildProcessError:
                    pass
        procs.end(lambda: [one for one in self.new_processes() if not one.dead])


def descriptors() -> dict[int, str]:
    """Open descriptors and what they point at."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the one that listed them
    return found


def session_id() -> str:
    return os.environ[SESSION_MARK]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves something behind. First set up, so last torn down."""
    before = Snapshot()
    yield
    found = before.leaks()
    if found:
        pytest.fail("left behind by this test:\n" + "\n".join(f"  {line}" for line in found), pytrace=False)


# --- the whole run ----------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shared",
        action="store_true",
        help="others work in this tree and on this machine meanwhile: tell of new files and groups, but do not fail",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A run inside a namespace belongs to the run around it.
    if not pidns.inside() or SESSION_MARK not in os.environ:
        os.environ[SESSION_MARK] = uuid.uuid4().hex
    # Children shall start as they do for users, with compiled modules kept.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # What a shell or a job runner let us inherit is no business of the children's: tests count descriptors.
    for fd in descriptors():
        if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}"):
            os.set_inheritable(fd, False)
    config.stash[_BEFORE] = _surroundings(config.rootpath)


_BEFORE = pytest.StashKey[dict[str, set[str]]]()
_FOUND = pytest.StashKey[list[str]]()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    found = []
    try:
        mark = session_id()
        met = procs.end(lambda: [] if not mark else _settled(mark))
        found += [f"process left: {who}" for who in met]
    except AssertionError as error:
        found.append(f"processes that could not be ended: {error}")
    if not pidns.inside():
        found += _new_things(config)
    config.stash[_FOUND] = found
    if [line for line in found if not line.startswith("(")] and session.exitstatus in (0, 5):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _settled(mark: str) -> list[procs.Process]:
    kin = []
    one = procs.look(os.getppid())
    while one is not None:  # a run inside a run has the outer mark all the way up
        kin.append((one.pid, one.start))
        one = procs.look(one.ppid)
    return procs.marked(SESSION_MARK, mark, kin)


def _new_things(config: pytest.Config) -> list[str]:
    before = config.stash[_BEFORE]
    shared = config.getoption("--shared")
    found = []
    after = _surroundings(config.rootpath)
    if after["group"] - before["group"]:  # somebody else's may be on its way out
        try:
            procs.wait_until(lambda: not _surroundings(config.rootpath)["group"] - before["group"], _SETTLE)
        except AssertionError:
            pass
        after = _surroundings(config.rootpath)
    for kind, things in after.items():
        for thing in sorted(things - before[kind]):
            line = f"{kind} left: {thing}"
            found.append(f"({line}; --shared: not held against this run)" if shared else line)
    return found


def _surroundings(root: Path) -> dict[str, set[str]]:
    """What a run could leave outside its own temporary folders."""
    return {"file": _tree(root), "group": _groups(), "mount": _mounts(), "state folder": _state_folders()}


def _tree(root: Path) -> set[str]:
    """What git sees changed or new, caches passed over; with sizes and times, so a second edit shows too."""
    if pidns.inside() or not (root / ".git").exists():
        return set()
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "status", "--porcelain", "--ignored", "-z"],
            cwd=root,
            capture_output=True,
            timeout=30,
            check=False,
        )
    except OSError:
        return set()
    found = set()
    for entry in done.stdout.decode("utf-8", "replace").split("\0"):
        if entry and not any(word in entry for word in _IGNORED):
            try:
                info = os.lstat(root / entry[3:])
            except OSError:
                found.add(f"{entry} (gone)")
            else:
                stamp = "" if entry.endswith("/") else f" ({info.st_size} bytes, {info.st_mtime_ns})"
                found.add(entry + stamp)
    return found


def _groups() -> set[str]:
    found = set()
    for line in _lines("/proc/self/mounts"):
        fields = line.split(" ")
        if fields[2] == "cgroup2":
            for folder, names, _ in os.walk(fields[1]):
                found |= {os.path.join(folder, name) for name in names if name.startswith("safesh-")}
    return found


def _mounts() -> set[str]:
    return {line for line in _lines("/proc/self/mounts") if "safesh" in line or "/sft-" in line}


def _state_folders() -> set[str]:
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = os.environ.get("SAFESH_HOME") or os.path.join(base, "safesh")
    try:
        return {os.path.join(path, name) for name in os.listdir(path)}
    except OSError:
        return set()


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found = config.stash.get(_FOUND, [])
    if found:
        terminalreporter.section("left behind by this run", red=True, bold=True)
        for line in found:
            terminalreporter.line(line)
