"""One sandbox, inside a pid and mount namespace: a home, a state folder on a small tmpfs, targets, and bystanders."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from faults import namespace, processes, programs
from faults.commands import DEADLINE, Command, Done
from faults.namespace import ROOT
from faults.processes import Process

SAFE = str(ROOT / "bin" / "safe.sh")
PROJECT = "faults"


class Disturbance(Protocol):
    """Something that goes wrong around safesh. ``apply`` gives what undoes it, or None when nothing has to be undone
    (or nothing could be done in this world). What it damages of our state files it names in ``world.damaged``."""

    name: str

    def apply(self, world: World, rng: random.Random) -> Callable[[], None] | None: ...


class World:
    """A context manager. Leaving it ends everybody in the namespace but ourselves, pid 1 and those above us.

    folder: all of it, never touched by safesh but for ``state``; outside: files that nobody of ours may touch;
    claims: where the targets tell of a second instance; alive: remove it, and the patient target is unhealthy;
    damaged: paths in the state folder that a disturbance has spoiled, so that they need not be valid any more;
    environ: what commands get besides; a disturbance may change it. prefix: words before each command (prlimit ...).
    """

    def __init__(
        self,
        backend: str = "",
        size_kib: int = 4096,
        names: Iterable[str] = programs.NAMES,
        main: str | None = None,
        own_tmpfs: bool = True,
    ) -> None:
        namespace.require()
        self.backend = backend
        self.folder = Path(tempfile.mkdtemp(prefix="safesh-faults-"))
        self.home = self.folder / "home"
        self.state = self.folder / "state"  # SAFESH_HOME
        self.project = self.folder / "project"
        self.claims = self.folder / "claims"
        self.outside = self.folder / "outside"
        for folder in (self.home, self.state, self.project, self.claims, self.outside):
            folder.mkdir(mode=0o700)
        self.files = self.state / PROJECT  # the project's state files
        self.alive = self.claims / "alive"
        self.alive.touch()
        self.mounted = own_tmpfs and self._mount(size_kib)
        self.config = self.project / "safe.toml"
        self.names = [name for name in names if programs.serves(name, backend)]
        self.targets: dict[str, dict[str, Any]] = {}
        self.marker = self.folder.name
        self.cgroup = own_cgroup()
        python = Path(os.environ.get("SAFESH_VENV") or ROOT / ".venv") / "bin" / "python"
        self.direct = [str(python), "-E", "-s", "-S", main or str(ROOT / "supervisor" / "safesh" / "__main__.py")]
        self.prefix: list[str] = []
        self.environ: dict[str, str] = {}
        self.damaged: set[str] = set()
        self.commands: list[Command] = []
        self.decoys: list[subprocess.Popen[bytes]] = []
        self.foreign: set[int] = set()  # pids of helpers that a disturbance started, and of their descendants
        for number, name in enumerate(self.names):
            (self.project / f"{name}.sh").write_text(programs.script(name, number))
            self.targets[name] = programs.settings(name, str(self.alive))
        self.write_config()

    def __enter__(self) -> Self:
        self._begin_decoys()
        self.untouched = self.snapshot()
        return self

    def __exit__(self, *_: object) -> None:
        self.end_everybody()
        for command in self.commands:
            command.wait(5)
        for decoy in self.decoys:
            decoy.wait(5)
        self._unmount()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _mount(self, size_kib: int) -> bool:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=0700,nr_inodes=400", "tmpfs", str(self.state)]
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    def _unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.state)], stdin=subprocess.DEVNULL, capture_output=True)

    # ---- safe.toml

    def instance(self, target: str) -> str:
        return str(self.targets[target].get("instance", target))

    @property
    def instances(self) -> list[str]:
        return sorted({self.instance(name) for name in self.targets})

    def write_config(self, text: str | None = None) -> None:
        """``targets`` as safe.toml, or ``text`` as it is. Replaced at once, as an editor does."""
        if text is None:
            lines = [f'project = "{PROJECT}"']
            for name, table in self.targets.items():
                env = {
                    "FAULTS_WORLD": self.marker,
                    "FAULTS_TARGET": name,
                    "FAULTS_INSTANCE": self.instance(name),
                    "FAULTS_CLAIMS": str(self.claims),
                }
                more = table.get("env", {})
                whole = {"command": ["sh", str(self.project / f"{name}.sh")], **table, "env": {**env, **more}}
                lines += [f"[targets.{name}]", *(f"{key} = {toml(value)}" for key, value in whole.items())]
            text = "\n".join(lines) + "\n"
        temporary = self.config.with_suffix(".new")
        temporary.write_text(text)
        temporary.chmod(0o644)
        temporary.rename(self.config)

    # ---- commands

    def environment(self, **more: str) -> dict[str, str]:
        mine = {"HOME": str(self.home), "SAFESH_HOME": str(self.state), "LANG": "C.UTF-8", "PATH": os.environ["PATH"]}
        if self.backend:
            mine["SAFESH_BACKEND"] = self.backend
        if "SAFESH_VENV" in os.environ:
            mine["SAFESH_VENV"] = os.environ["SAFESH_VENV"]
        return {**mine, **self.environ, **more}

    def begin(self, *args: str, script: bool = False, **more: str) -> Command:
        """Start ``safe.sh ARGS``. ``script``: by bin/safe.sh itself, else by its last line. more: variables."""
        out, err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        words = [*self.prefix, *([SAFE] if script else self.direct), *args]
        child = subprocess.Popen(
            words,
            cwd=self.project,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        command = Command(args, child, out, err)
        self.commands.append(command)
        return command

    def safe(self, *args: str, timeout: float = DEADLINE, **more: str) -> Done:
        """Run ``safe.sh ARGS`` to its end."""
        command = self.begin(*args, script=False, **more)
        done = command.wait(timeout)
        self.commands.remove(command)
        return done

    # ---- who lives

    def members(self) -> list[Process]:
        """Everybody of ours that lives: supervisors, keepers, targets' trees, couriers, probes. From /proc alone: all
        in this namespace but pid 1, the driver, commands under way, decoys and what disturbances started."""
        everybody = processes.scan()
        left_out = {1, os.getpid(), *_above(os.getpid()), *self.foreign}
        left_out |= {decoy.pid for decoy in self.decoys}
        # A foreground start becomes its supervisor: the same pid, and a holder like any other.
        left_out |= {one.child.pid for one in self.commands if _role(everybody, one.child.pid) not in ("supervisor",)}
        return [one for one in everybody.values() if not one.dead and one.pid not in left_out and one.role != "decoy"]

    def of(self, instance: str, members: list[Process] | None = None) -> list[Process]:
        """The members of one instance's trees (its holders not)."""
        found = self.members() if members is None else members
        return [one for one in found if one.role == "member" and self.instance_of(one) == instance]

    def instance_of(self, one: Process) -> str:
        if one.instance or not one.target.startswith("#"):
            return one.instance
        number = int(one.target[1:])
        return self.instance(self.names[number]) if number < len(self.names) else ""

    def holders(self, instance: str = "", members: list[Process] | None = None) -> list[Process]:
        """Supervisors and keepers, of one instance or of all."""
        found = self.members() if members is None else members
        return [one for one in found if one.role in ("supervisor", "keeper") and instance in ("", one.instance)]

    def lock(self, instance: str) -> Path:
        return self.files / f"{instance}.lock"

    def lock_held(self, instance: str) -> bool:
        """Asked as any program could: flock(2), shared, for an instant. False where it cannot even be opened."""
        try:
            fd = os.open(self.lock(instance), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        return False

    # ---- bystanders

    def _begin_decoys(self) -> None:
        """Processes and files that look a bit like ours, and are not."""
        bystander = {"PATH": os.environ["PATH"], "SAFESH_RUN_ID": "", "FAULTS_WORLD": "elsewhere"}
        for words in (["sleep", "2000"], ["sh", "-c", "trap '' TERM; while :; do sleep 2001; done"]):
            self.decoys.append(subprocess.Popen(words, env=bystander, stdin=subprocess.DEVNULL, start_new_session=True))
        time.sleep(0.01)
        (self.outside / "precious").write_text("do not touch\n")
        (self.outside / "precious.lock").write_text("")
        (self.outside / "deep").mkdir()
        (self.outside / "deep" / "events.jsonl").write_text('{"mine": true}\n')
        (self.outside / "link").symlink_to("precious")
        (self.home / ".profile").write_text("# mine\n")

    def snapshot(self) -> dict[str, str]:
        """What stands outside of safesh's own folder: kind, mode, owner and a hash of the content by name."""
        found = {}
        for top in (self.outside, self.home, self.project):
            for folder, folders, files in os.walk(top):
                for name in sorted([*folders, *files]):
                    path = os.path.join(folder, name)
                    found[path] = _fingerprint(path)
        found.pop(str(self.config), None)  # the driver edits it
        found.pop(str(self.config.with_suffix(".new")), None)
        return found

    # ---- the end

    def end_everybody(self, deadline: float = 10.0) -> list[Process]:
        """SIGKILL to all in this namespace but pid 1, us and those above us, until nobody is left; who is left after
        ``deadline`` seconds. The last resort, never a stop: safesh's own ways were tried before."""
        namespace.require()
        spare = {1, os.getpid(), *_above(os.getpid())}
        until = time.monotonic() + deadline
        while True:
            rest = [one for one in processes.scan().values() if not one.dead and one.pid not in spare]
            if not rest or time.monotonic() > until:
                return rest
            for one in rest:
                try:
                    os.kill(one.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.005)

    def wait(self, condition: Callable[[], bool], deadline: float, pause: float = 0.005) -> bool:
        """Whether it came true in time."""
        until = time.monotonic() + deadline
        while not condition():
            if time.monotonic() > until:
                return condition()
            time.sleep(pause)
        return True


def own_cgroup() -> Path | None:
    """The folder of our own cgroup v2 group, None where there is none to see."""
    own = next((line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 ") and own:
            root, mount = left.split()[3:5]
            path = Path(mount) / (own if root == "/" else own.removeprefix(root)).lstrip("/")
            return path if path.is_dir() and os.access(path, os.W_OK) else None
    return None


def _role(everybody: dict[int, Process], pid: int) -> str:
    return everybody[pid].role if pid in everybody else ""


def _above(pid: int) -> list[int]:
    found = []
    while pid > 1 and (one := processes.look(pid)) is not None:
        pid = one.ppid
        found.append(pid)
    return found


def _fingerprint(path: str) -> str:
    info = os.lstat(path)
    what = f"{info.st_mode:o} {info.st_uid} "
    if os.path.islink(path):
        return what + os.readlink(path)
    if os.path.isfile(path):
        return what + hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    return what


def toml(value: Any) -> str:
    """A value as TOML: JSON but for inline tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return json.dumps(value)
