"""What a neighbour has put where our files go. Each scenario is played by a user of ours and by root."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from faults.neighbours_stage import THEIRS, Decoy, Stage, Unfit, picture, processes, wait_for

REFUSED = 73  # StateError
_SHARED = """[targets.t]
command = ["sleep", "987654"]
stop = {{ grace = "1s" }}
{key} = "{path}"
"""


# ---- kinds of traps: each makes ``path`` something of theirs


def _file(path: Path, _victim: Path) -> None:
    path.write_text('{"pid": 1}\n')
    path.chmod(0o666)


def _link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def _dangling(path: Path, _victim: Path) -> None:
    path.symlink_to(path.with_name("made-by-whoever-follows"))


def _fifo(path: Path, _victim: Path) -> None:
    os.mkfifo(path, 0o666)


def _folder(path: Path, _victim: Path) -> None:
    path.mkdir(mode=0o777)
    (path / "inside").write_text("theirs\n")


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "file": _file, "symlink": _link, "dangling symlink": _dangling, "fifo": _fifo, "folder": _folder,
}  # fmt: skip


def _victims(stage: Stage) -> tuple[Path, Path]:
    """A file and a folder of ours that must not be touched on anybody's behalf."""
    file, folder = stage.own / "precious", stage.own / "precious.d"
    file.write_text("precious\n")
    (folder / "default").mkdir(parents=True)
    for name in ("t.json", "t.log", "t.lock", "events.jsonl"):
        (folder / "default" / name).write_text("precious\n")
    for path in (file, folder, *folder.rglob("*")):
        os.chown(path, stage.uid, stage.uid)
    stage.guard(file, folder)
    return file, folder


def _try(stage: Stage, *, must_refuse: bool, name: str = "") -> None:
    """Start, look, start again, end: within its time, never twice, and an error names the path."""
    first = stage.start()
    assert first.code in ((REFUSED,) if must_refuse else (0, REFUSED)), first
    if first.code == REFUSED:
        assert first.err.count("\n") == 2, f"one line and a hint: {first.err}"
        assert name in first.err, f"{name} is not named: {first.err}"
        assert not stage.instances(), "refused, and started all the same"
    stage.safe("status", "t")
    second = stage.start()
    assert len(stage.instances()) <= 1, "started twice"
    assert second.code in (REFUSED, 75), second
    ended = stage.safe("stop", "t", "--force", "--now").check(0, 2, 4, REFUSED)
    assert first.code or (ended.code == 0 and not stage.instances()), f"it still runs: {ended}"
    stage.safe("kill-all", "--force", "--now")


# ---- the state folder


def home_that_is_theirs(stage: Stage) -> None:
    """SAFESH_HOME in a folder like /tmp, made by them before us."""
    stage.home = stage.public / "state"
    stage.as_them(lambda: stage.home.mkdir(mode=0o777))
    os.chmod(stage.home, 0o777)
    stage.guard(stage.home)
    _try(stage, must_refuse=True, name=str(stage.home))


def home_that_is_their_symlink(stage: Stage) -> None:
    """SAFESH_HOME is their symlink: to a folder of theirs, to one of ours, to nowhere."""
    _file, folder = _victims(stage)
    for number, target in enumerate((stage.theirs, folder, stage.own / "new")):
        stage.home = stage.public / f"state{number}"
        stage.as_them(lambda target=target: stage.home.symlink_to(target))  # type: ignore[misc]
        stage.guard(stage.home)
        _try(stage, must_refuse=True, name=str(stage.home))
    assert not (stage.own / "new").exists()


def home_below_their_symlink(stage: Stage) -> None:
    """SAFESH_HOME below a symlink of theirs that leads to a folder of ours."""
    _file, folder = _victims(stage)
    way = stage.public / "way"
    stage.as_them(lambda: way.symlink_to(folder))
    stage.home = way / "deep" / "state"
    _try(stage, must_refuse=True, name=str(way))
    stage.check()


def project_folder_that_is_theirs(stage: Stage) -> None:
    """SAFESH_HOME is a folder like /tmp itself, and they have made the project's folder, or something in its place."""
    _file, folder = _victims(stage)
    for kind, trap in KINDS.items():
        stage.home = stage.public / kind.replace(" ", "-")
        stage.home.mkdir()
        stage.home.chmod(0o1777)
        stage.as_them(lambda trap=trap: trap(stage.home / "default", folder))  # type: ignore[misc]
        stage.guard(stage.home / "default")
        _try(stage, must_refuse=True, name=str(stage.home / "default"))


NAMES = (
    "t.lock", "t.pid", "t.json", "t.log", "t.log.000001", "t.log.000001.gz", "events.jsonl", "t.sock", "t.notify",
    "history.spool", "history.spool-lock", "history.db", "history.db-wal", ".health-t",
)  # fmt: skip


def files_in_a_folder_that_was_open(stage: Stage) -> None:
    """Our project's folder was open to all for a while: any of our files may be theirs, of any kind."""
    victim, _folder_of_ours = _victims(stage)
    for kind, trap in KINDS.items():
        for name in NAMES:
            stage.home = stage.own / "state" / f"{kind}-{name}".replace(" ", "-")
            folder = stage.home / "default"
            folder.mkdir(parents=True)
            for path in (stage.home, folder, stage.own / "state"):
                os.chown(path, stage.uid, stage.uid)
            trap(folder / name, victim)
            os.chown(folder / name, THEIRS, THEIRS, follow_symlinks=False)
            before = picture(folder / name)
            _try(stage, must_refuse=False, name=str(folder / name))
            if kind in ("file", "folder") and os.path.lexists(folder / name):
                now = picture(folder / name)
                assert now == before or now[2] == stage.uid, f"{name}, a {kind} of theirs, was written: {now}"
            assert not (folder / "made-by-whoever-follows").exists(), f"{name}: their symlink was followed"
            shutil.rmtree(stage.home)


def temporary_names_that_are_theirs(stage: Stage) -> None:
    """They have every temporary name that a pid of ours could lead to, beside a pid file of ours in a shared folder."""
    path = stage.public / "robot.pid"
    stage.configure(_SHARED.format(key="pid_file", path=path))
    names = [Path(f"{path}.{pid}.tmp") for pid in range(1, 1500)]

    def trap() -> None:
        for number, name in enumerate(names):
            if number % 2:
                name.symlink_to("/etc/passwd")
            else:
                name.touch()

    stage.as_them(trap)
    stage.guard(*names)
    stage.safe("start", "t", "--detach").check(0)
    assert path.read_text().strip().isdigit()
    assert stage.safe("stop", "t", "--force").code == 0
    stage.check()


# ---- lock and pid files in shared folders


def lock_file_that_is_theirs(stage: Stage) -> None:
    """lock_file in a folder like /tmp, and they were there first, with anything."""
    victim, _folder_of_ours = _victims(stage)
    for kind, trap in KINDS.items():
        path = stage.public / f"{kind.replace(' ', '-')}.lock"
        stage.configure(_SHARED.format(key="lock_file", path=path))
        stage.as_them(lambda trap=trap, path=path: trap(path, victim))  # type: ignore[misc]
        stage.guard(path)
        done = stage.safe("start", "t", "--detach").check(REFUSED)
        assert str(path) in done.err, done
        stage.safe("status", "t").check(4)
        stage.safe("stop", "t", "--force")
        assert not stage.instances()


def lock_file_that_is_a_second_name(stage: Stage) -> None:
    """Where the kernel lets them, they make our lock's name a second name of a file of ours."""
    victim, _folder_of_ours = _victims(stage)
    path = stage.public / "second.lock"
    stage.configure(_SHARED.format(key="lock_file", path=path))
    os.link(victim, path)  # as they could where protected_hardlinks is 0
    stage.guard(victim)
    done = stage.safe("start", "t", "--detach").check(REFUSED)
    assert str(path) in done.err, done
    assert not stage.instances()


def lock_file_in_a_folder_open_to_all(stage: Stage) -> None:
    """A lock that they could replace guards nothing, so it is refused before anything is started."""
    for folder in (stage.open, stage.theirs):
        stage.configure(_SHARED.format(key="lock_file", path=folder / "robot.lock"))
        done = stage.safe("start", "t", "--detach").check(REFUSED)
        assert "others could replace it" in done.err, done
        assert not stage.instances()


def pid_file_that_is_theirs(stage: Stage) -> None:
    """pid_file in a folder like /tmp, and they were there first: root does not take it from them either."""
    victim, _folder_of_ours = _victims(stage)
    decoy = stage.decoy()
    for kind, trap in KINDS.items():
        path = stage.public / f"{kind.replace(' ', '-')}.pid"
        stage.configure(_SHARED.format(key="pid_file", path=path))
        stage.as_them(lambda trap=trap, path=path: trap(path, victim))  # type: ignore[misc]
        if kind == "file":
            path.write_text(f"{decoy.pid}\n")
        stage.guard(path)
        done = stage.safe("start", "t", "--detach").check(REFUSED)
        assert str(path) in done.err, done
        stage.safe("status", "t")
        stage.safe("stop", "t", "--force", "--now").check(0)
        assert not stage.instances()


def lock_that_they_hold(stage: Stage) -> None:
    """A lock file of ours that was readable, so they can flock it: told, in time, and nothing is started."""
    path = stage.public / "held.lock"
    stage.configure(_SHARED.format(key="lock_file", path=path))
    path.touch()
    os.chown(path, stage.uid, stage.uid)
    path.chmod(0o644)
    script = f"import fcntl, os\nfcntl.flock(os.open({str(path)!r}, os.O_RDONLY), fcntl.LOCK_EX)\n"
    script += "os.write(1, b'ready\\n')\nimport time; time.sleep(600)\n"
    stage.decoys.append(Decoy(THEIRS, script=script))
    assert stage.safe("start", "t", "--detach").code == 75
    stage.safe("status", "t")
    stage.safe("stop", "t", "--force", "--now")
    assert not stage.instances()


def socket_that_they_knock_at(stage: Stage) -> None:
    """They cannot reach the control socket, read the record or the log, or signal anybody of ours."""
    stage.start().check(0)
    record = stage.record()

    def knock() -> None:
        refused = 0
        for path in (stage.file("t.sock"), stage.file("t.json"), stage.file("t.log"), stage.file("t.lock")):
            try:
                if path.suffix == ".sock":
                    socket.socket(socket.AF_UNIX).connect(str(path))
                else:
                    path.read_bytes()
            except PermissionError:
                refused += 1
        for role in ("supervisor", "keeper", "main"):
            for number in (15, 9, 19):
                try:
                    os.kill(record[role]["pid"], number)
                except PermissionError:
                    refused += 1
        assert refused == 4 + 9, f"only {refused} of 13 tries were refused"

    stage.as_them(knock)
    stage.safe("status", "t").check(0)
    stage.safe("stop", "t", "--force").check(0)


def notify_socket_that_they_talk_to(stage: Stage) -> None:
    """sd_notify's socket of root's can be reached by everybody: strangers are not believed, and hold nobody up."""
    stage.configure(
        '[targets.t]\ncommand = ["sleep", "987654"]\n'
        'ready = { notify = true, within = "2s" }\nstop = { grace = "1s" }\n'
    )
    pending = stage.spawn("start", "t", "--detach")
    try:
        wait_for(stage.instances)
        pid = stage.instances()[0]
        with open(f"/proc/{pid}/environ", "rb") as file:
            told = dict(item.partition(b"=")[::2] for item in file.read().split(b"\0"))
        name = told[b"NOTIFY_SOCKET"].decode()

        def talk() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(0.2)
                for _ in range(3000):
                    try:
                        sock.sendto(b"READY=1\nSTATUS=theirs\nMAINPID=1\nSTOPPING=1\nWATCHDOG=trigger", "\0" + name[1:])
                    except (TimeoutError, BlockingIOError, ConnectionRefusedError):
                        pass

        if name.startswith("@"):
            stage.as_them(talk)
        code = pending.wait(30)
        assert code != 0, "their READY=1 was believed"
    finally:
        pending.kill()
        pending.wait()
    assert "theirs" not in (stage.home / "own" / "t.json").read_text()


# ---- names in /proc


def names_that_speak(stage: Stage) -> None:
    """Processes, theirs and a member of ours, whose names and words are escapes, line breaks and parentheses."""
    evil = "\x1b]0;pwned\x07\n) R 1 1 1 1\r\x1b[2J"
    script = f"import os, time\nopen('/proc/self/comm', 'w').write({evil[:15]!r})\n"
    script += "os.write(1, b'ready\\n')\ntime.sleep(600)\n"
    stage.decoys.append(Decoy(THEIRS, [evil], script=script))
    inner = "open('/proc/self/comm', 'wb').write(b')\\n(\\xff\\x1b[31m'); import time; time.sleep(600)"
    stage.safe("start", "t", "--detach", "--", stage.python, "-I", "-S", "-c", inner, evil).check(0)
    for words in (["status", "t"], ["status", "--json"], ["top", "--once"], ["kill-all"], ["doctor"]):
        done = stage.safe(*words)
        for line in (done.out + done.err).split("\n"):
            assert line.isprintable(), f"{words}: {line!r}"
    stage.safe("stop", "t", "--force", "--now").check(0)
    assert not [words for _pid, words in processes() if inner in words]


def checkout_that_they_may_write(stage: Stage) -> None:
    """A safe.toml that they could have written is never read; nothing is started from it."""
    if stage.uid == 0:
        raise Unfit("root runs the checkouts of users")
    text = '[targets.t]\ncommand = ["sleep", "987654"]\n'
    for folder, mode in ((stage.theirs, 0o644), (stage.public, 0o644), (stage.open, 0o666)):
        path = folder / "safe.toml"
        path.write_text(text)
        os.chown(path, THEIRS, THEIRS)
        path.chmod(mode)
        stage.guard(path)
        done = stage.safe("start", "t", "--detach", cwd=folder).check(78)
        assert "not trusted" in done.err or "msgspec" in done.err, done
        assert not stage.instances()


SCENARIOS: tuple[Callable[[Stage], None], ...] = (
    home_that_is_theirs, home_that_is_their_symlink, home_below_their_symlink, project_folder_that_is_theirs,
    temporary_names_that_are_theirs, lock_file_that_is_theirs, lock_file_that_is_a_second_name,
    lock_file_in_a_folder_open_to_all, pid_file_that_is_theirs, lock_that_they_hold, socket_that_they_knock_at,
    notify_socket_that_they_talk_to, names_that_speak, checkout_that_they_may_write,
)  # fmt: skip
LONG: tuple[Callable[[Stage], None], ...] = (files_in_a_folder_that_was_open,)
