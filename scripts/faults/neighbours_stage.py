"""Two users on one machine: ours runs safesh, theirs does what it can against it. For a pid namespace alone.

Everything of theirs is a decoy: files whose inode, times, mode and content are compared at the end, and processes that
write down every signal they get.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from faults import namespace

ROOT = Path(__file__).resolve().parents[2]
ROOT_USER, OURS, THEIRS = 0, 61001, 61002
TARGET = ("sleep", "987654")  # what our instance runs; its command line tells it from everything else
_DEADLINE = 60.0

# Blocks all that can be blocked and says which came; "ready" first. Its name is whatever argv says.
_LISTENER = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.write(1, b"ready\\n")
while True:
    os.write(1, f"{signal.sigwaitinfo(signal.valid_signals()).si_signo}\\n".encode())
"""


class Unfit(Exception):
    """This scenario cannot be played here; the message says why."""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    def check(self, *codes: int) -> Done:
        assert self.code in codes, f"status {self.code}, expected {codes}: {self.out}{self.err}"
        return self


class Decoy:
    """A process of somebody else's that must not hear from us."""

    def __init__(self, uid: int, argv: Sequence[str] = (), env: dict[str, str] | None = None, script: str = "") -> None:
        words = [_python_for(uid), "-I", "-S", "-c", script or _LISTENER, *argv]
        self.process = subprocess.Popen(
            words, user=uid, group=uid, extra_groups=[], env=env or {}, cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first == b"ready\n", f"the decoy did not come up: {first!r}"
        os.set_blocking(self.process.stdout.fileno(), False)
        self.pid = self.process.pid

    def heard(self) -> list[str]:
        assert self.process.stdout is not None
        text = self.process.stdout.read() or b""
        return text.decode().split()

    def check(self) -> None:
        """It lives, runs, and nobody spoke to it."""
        assert self.process.poll() is None, f"a decoy was ended: {self.process.returncode}"
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
        assert state in (b"S", b"R", b"D"), f"a decoy was stopped: {state!r}"
        heard = self.heard()
        assert not heard, f"a decoy got signals: {heard}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def picture(path: Path) -> Any:
    """All that an outsider can see of a file; a folder with all that is in it."""
    info = os.lstat(path)
    seen: list[Any] = [info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_nlink]
    if path.is_symlink():
        return [*seen, os.readlink(path)]
    if path.is_dir():
        return [*seen, info.st_mtime_ns, {one.name: picture(one) for one in sorted(path.iterdir())}]
    if path.is_file():
        return [*seen, info.st_mtime_ns, info.st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
    return [*seen, info.st_mtime_ns]


class Stage:
    """A machine's worth of folders. ``uid``: who runs safesh.

    base: closed to writers; public: sticky like /tmp; open: writable for all, not sticky; own: ours alone; theirs.
    """

    def __init__(self, base: Path, uid: int) -> None:
        self.base = base
        self.uid = uid
        self.python = _python_for(uid)
        self.public = self._folder("public", 0, 0o1777)
        self.open = self._folder("open", 0, 0o777)
        self.own = self._folder("own", uid, 0o700)
        self.theirs = self._folder("theirs", THEIRS, 0o755)
        self.home = self.own / "state"
        self.environment: dict[str, str] = {}
        self.decoys: list[Decoy] = []
        self.guarded: dict[Path, Any] = {}

    def _folder(self, name: str, uid: int, mode: int) -> Path:
        path = self.base / name
        path.mkdir()
        os.chown(path, uid, uid)
        path.chmod(mode)
        return path

    # ---- ours

    def safe(self, *words: str, timeout: float = _DEADLINE, cwd: Path | None = None) -> Done:
        """Our command line as our user; a hang or a traceback is a failure by itself."""
        command = [*self._cli(), *words]
        try:
            done = subprocess.run(
                command, user=self.uid, group=self.uid, extra_groups=[], env=self._variables(), cwd=cwd or self.own,
                stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"safesh {' '.join(words)} hung for {timeout:g} s") from error
        out, err = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
        assert "Traceback" not in out + err, f"{words}: {out}{err}"
        assert "a bug in" not in err, f"{words}: {err}"
        assert "\x1b" not in out + err, f"{words}: an escape: {out!r}{err!r}"
        return Done(done.returncode, out, err)

    def spawn(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._cli(), *words], user=self.uid, group=self.uid, extra_groups=[], env=self._variables(), cwd=self.own,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _cli(self) -> list[str]:
        return [self.python, "-E", "-s", "-S", str(self.base / "code" / "safesh" / "__main__.py")]

    def _variables(self) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.own), "SAFESH_HOME": str(self.home),
            "LANG": "C.UTF-8", **self.environment,
        }  # fmt: skip

    def start(self, *more: str) -> Done:
        return self.safe("start", "t", "--detach", *more, "--", *TARGET)

    def configure(self, text: str) -> None:
        """A safe.toml of ours, in our folder."""
        if not has_msgspec(self.uid):
            raise Unfit("the Python that another user can run has no msgspec")
        path = self.own / "safe.toml"
        path.write_text(text)
        os.chown(path, self.uid, self.uid)

    def file(self, name: str) -> Path:
        return self.home / "default" / name

    def record(self, project: str = "default") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.home / project / "t.json").read_text())
        return found

    def instances(self) -> list[int]:
        """Pids of our target, by its command line: the only processes that have it."""
        return [pid for pid, words in processes() if words == list(TARGET)]

    def end(self) -> None:
        """Whatever lives of ours, ended from outside: every process of the namespace that is not on the way to us."""
        spared = _ancestors() | {decoy.pid for decoy in self.decoys}
        for _ in range(100):
            left = [pid for pid in _pids() if pid not in spared and pid > 1 and not _is_zombie(pid)]
            if not left:
                return
            namespace_guard()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)

    # ---- theirs

    def guard(self, *paths: Path) -> None:
        """From now on these must stay what they are."""
        for path in paths:
            self.guarded[path] = picture(path)

    def decoy(self, *argv: str, uid: int = THEIRS, env: dict[str, str] | None = None) -> Decoy:
        self.decoys.append(Decoy(uid, argv, env))
        return self.decoys[-1]

    def as_them(self, work: Callable[[], None]) -> None:
        """``work`` in a child that is them; an exception there is one here."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(THEIRS)
                os.setuid(THEIRS)
                work()
                code = 0
            except BaseException as error:
                os.write(2, f"{type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0, "the neighbour's own work failed"

    def check(self) -> None:
        """Nothing of theirs was touched, and nothing of ours runs twice."""
        for path, before in self.guarded.items():
            assert os.path.lexists(path), f"{path} is gone"
            now = picture(path)
            assert now == before, f"{path} was touched: {before} before, {now} now"
        for decoy in self.decoys:
            decoy.check()
        assert len(self.instances()) <= 1, f"{len(self.instances())} instances run"

    def close(self) -> None:
        for decoy in self.decoys:
            decoy.close()
        self.decoys.clear()
        self.end()


@contextmanager
def stage(uid: int) -> Iterator[Stage]:
    """A new stage, checked at its end; whatever runs is ended. RuntimeError outside of a pid namespace."""
    namespace_guard()
    if os.geteuid() != 0 or not _python_for(uid):
        raise Unfit("only root can be two users, with a Python that both can run")
    base = Path(tempfile.mkdtemp(prefix="sfn-", dir="/tmp"))
    base.chmod(0o755)
    (base / "code").symlink_to(_code())
    made = Stage(base, uid)
    try:
        yield made
        made.check()
    finally:
        made.close()
        shutil.rmtree(base, ignore_errors=True)


def namespace_guard() -> None:
    """RuntimeError outside: the tests' and our own guards know the same mark."""
    namespace.require()


@cache
def _code() -> Path:
    """A copy of the package that every user can read, compiled, for all stages of this process."""
    folder = Path(tempfile.mkdtemp(prefix="sfn-code-", dir="/tmp"))
    shutil.copytree(ROOT / "supervisor" / "safesh", folder / "safesh", ignore=shutil.ignore_patterns("__pycache__"))
    for path, _folders, files in os.walk(folder):
        os.chmod(path, 0o755)
        for name in files:
            os.chmod(os.path.join(path, name), 0o644)
    python = _python_for(THEIRS)
    subprocess.run([python, "-m", "compileall", "-q", str(folder)], check=False, timeout=120, env={}, cwd="/")
    return folder


def forget_code() -> None:
    """Remove the copy."""
    if _code.cache_info().currsize:
        shutil.rmtree(_code(), ignore_errors=True)
        _code.cache_clear()
    if _environment.cache_info().currsize:
        shutil.rmtree(_environment(), ignore_errors=True)
        _environment.cache_clear()
        _python_for.cache_clear()


@cache
def _python_for(uid: int) -> str:
    """A Python that this user can run; "" where there is none. With our libraries where that works."""
    if uid == ROOT_USER:
        return sys.executable
    try:
        path = str(_environment() / "bin" / "python3")
    except Unfit:
        return ""
    return path


@cache
def _environment() -> Path:
    """A virtual environment with msgspec that every user can read, around a Python that every user can run."""
    for python in dict.fromkeys((os.path.realpath(sys.executable), "/usr/bin/python3")):
        words = [
            python,
            "-I",
            "-S",
            "-c",
            "import sys; assert sys.version_info >= (3, 11); print(*sys.version_info[:2])",
        ]
        try:
            done = subprocess.run(
                words, user=THEIRS, group=THEIRS, extra_groups=[], capture_output=True, timeout=30, cwd="/"
            )
        except OSError:
            continue
        if done.returncode == 0:
            version = "python" + ".".join(done.stdout.decode().split())
            break
    else:
        raise Unfit("no Python that another user can run")
    folder = Path(tempfile.mkdtemp(prefix="sfn-env-", dir="/tmp"))
    site = folder / "lib" / version / "site-packages"
    (folder / "bin").mkdir()
    site.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {os.path.dirname(python)}\ninclude-system-site-packages = false\n")
    (folder / "bin" / "python3").symlink_to(python)
    if version == f"python{sys.version_info[0]}.{sys.version_info[1]}":
        for name in ("msgspec", "click"):
            try:
                found = __import__(name).__file__ or ""
                shutil.copytree(os.path.dirname(found), site / name, ignore=shutil.ignore_patterns("__pycache__"))
            except ImportError:
                continue
    for path, _folders, files in os.walk(folder):
        os.chmod(path, 0o755)
        for name in files:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o644)
    return folder


@cache
def has_msgspec(uid: int) -> bool:
    if uid == ROOT_USER:
        return True
    return any((_environment() / "lib").glob("python*/site-packages/msgspec"))


# ---- looking


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except (OSError, IndexError):
        return True


def processes() -> list[tuple[int, list[str]]]:
    """(pid, command line) of every living process."""
    found = []
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                data = file.read()
        except OSError:
            continue
        if data and not _is_zombie(pid):
            found.append((pid, data.removesuffix(b"\0").decode("utf-8", "replace").split("\0")))
    return found


def _ancestors() -> set[int]:
    found, pid = {1}, os.getpid()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            break
    return found


def wait_for(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Its first true answer."""
    ends = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < ends, f"not within {seconds:g} s"
        time.sleep(0.01)
    return answer
