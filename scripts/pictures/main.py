"""What is photographed: a small project, in a mount and pid namespace of its own, so that paths and pids are the same
wherever this runs and nothing of this machine is seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pictures import svg
from pictures.terminal import Frame, Terminal

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
_INSIDE = "SAFESH_PICTURES_INSIDE"
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
COLUMNS = 100
PROJECT = Path("/srv/arm")
MOST_BYTES = 200 << 10  # a README is no film
_CONFIG = """\
project = "arm"

[targets.robot]
command = ["python3", "robot.py", "--headless", "--port", "8080", "--daemonize-grandchild"]
ready = { http = "http://127.0.0.1:8080/health" }
health = { http = "http://127.0.0.1:8080/health", interval = "2s" }
restart = "on-failure"
stop = { grace = "2s" }

[targets.crawler]
command = ["python3", "crawl.py"]
restart = "always"
limits = { cpu = { most = 150, for = "1m", action = "warn" }, memory = "200M" }

[targets.docs]
command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"]
ready = { tcp = 8000 }
depends_on = ["robot"]
"""
# Something that is busy, in several processes: half a core, and less in its children.
_CRAWLER = """\
import os, time

share, pages = 0.5, []
for part in (0.22, 0.07):
    if os.fork() == 0:
        share = part
        break
while True:
    begun = time.monotonic()
    while time.monotonic() - begun < share / 20:
        pass
    if len(pages) < 600:
        pages.append(bytearray(os.urandom(1 << 14)))
    time.sleep((1 - share) / 20)
"""


def main() -> int:
    if os.environ.get(_INSIDE) != "1":
        return _enter()
    assert os.getpid() == 1, "not in a pid namespace of our own"
    stage = Stage()
    for name, text in (
        ("terminal-recording.svg", stage.recording()),
        ("terminal-status.svg", stage.status()),
        ("terminal-top.svg", stage.top()),
        ("terminal-run.svg", stage.run()),
    ):
        if len(text.encode()) > MOST_BYTES:
            raise SystemExit(f"pictures: {name} has {len(text.encode())} bytes, the most is {MOST_BYTES}")
        _refuse_what_is_ours(name, text)
        (IMAGES / name).write_text(text, encoding="utf-8")
        print(f"docs/images/{name}: {len(text.encode()) >> 10} KiB")
    return 0


def _enter() -> int:
    """Again, in namespaces; the exit status of that."""
    if PROJECT.parent in ROOT.parents:
        raise SystemExit(f"pictures: a checkout below {PROJECT.parent} cannot be used, for that folder is covered")
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return subprocess.run(
        [*_UNSHARE[:1], *user, *_UNSHARE[1:], sys.executable, str(ROOT / "scripts" / "pictures.py")],
        env={**os.environ, _INSIDE: "1"},
        check=False,
        timeout=300,
    ).returncode


def _refuse_what_is_ours(name: str, text: str) -> None:
    """No path, name or user of this machine is published."""
    for word in (str(ROOT), str(Path.home()), os.uname().nodename, sys.base_prefix):
        if len(word) > 3 and word in text:
            raise SystemExit(f"pictures: {name} shows {word!r}")


class Stage:
    """The project, its state folder and its PATH, below a folder that is memory."""

    def __init__(self) -> None:
        base = PROJECT.parent
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(base)], check=True)
        for name in ("arm", "state", "bin", "safesh"):
            (base / name).mkdir()
        subprocess.run(["mount", "--bind", str(ROOT), str(base / "safesh")], check=True)
        (base / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
        (base / "bin" / "safe.sh").symlink_to(base / "safesh" / "bin" / "safe.sh")
        for name in ("plan.json", "step.py"):
            shutil.copy(ROOT / "examples" / name, PROJECT / name)
        shutil.copy(ROOT / "scripts" / "demo_robot.py", PROJECT / "robot.py")
        (PROJECT / "crawl.py").write_text(_CRAWLER)
        (PROJECT / "safe.toml").write_text(_CONFIG)
        self.env = {
            "PATH": f"{base}/bin:/usr/bin:/bin",
            "HOME": str(base),
            "SAFESH_HOME": str(base / "state"),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "PS1": r"\[\e[1;32m\]$\[\e[0m\] ",
            "BASH_SILENCE_DEPRECATION_WARNING": "1",
        }

    def safe(self, *words: str) -> None:
        subprocess.run(
            ["safe.sh", *words], env=self.env, cwd=PROJECT, check=True, timeout=60, stdout=subprocess.DEVNULL
        )

    def shell(self, rows: int) -> Terminal:
        shown = Terminal(["bash", "--norc", "--noprofile", "-i"], self.env, str(PROJECT), COLUMNS, rows)
        assert shown.watch(10, lambda text: text.startswith("$")), shown.text()
        return shown

    def _asked(self, terminal: Terminal, command: str, seconds: float, until: Callable[[str], bool]) -> None:
        """Type the command, and wait for what it answers with; it may ask something, so for no prompt."""
        terminal.type(command)
        terminal.watch(0.4)
        terminal.write("\n")
        if not terminal.watch(seconds, until):
            raise SystemExit(f"pictures: {command}: not as expected:\n{terminal.text()}")
        terminal.watch(0.5)

    def recording(self) -> str:
        """start, status, stop with its verdict."""
        with self.shell(34) as terminal:
            for command, needle in (
                ("safe.sh start robot --detach", "robot is ready"),
                ("safe.sh start robot", "already"),
                ("safe.sh status robot", "total:"),
                ("safe.sh stop robot", "[y/N]"),
            ):
                self._asked(terminal, command, 20, lambda text, needle=needle: needle in text)  # type: ignore[misc]
                terminal.watch(1.5)
            terminal.type("y")
            terminal.write("\n")
            assert terminal.watch(10, lambda text: "nobody is left" in text), terminal.text()
            terminal.watch(0.5)
            frames = _paced(terminal.frames)
        return svg.moving(frames, 5, "safe.sh", "A recording: safe.sh start, status and stop with its verdict")

    def status(self) -> str:
        self.safe("start", "--all", "--detach")
        with self.shell(46) as terminal:
            terminal.watch(3)
            self._asked(terminal, "safe.sh status", 20, lambda text: text.count("total:") == 3)
            frame = terminal.frame()
        return svg.still(_without_prompt(frame), "safe.sh status", "safe.sh status: three targets and their trees")

    def top(self) -> str:
        with Terminal(["safe.sh", "top", "--interval", "1s"], self.env, str(PROJECT), COLUMNS, 17) as terminal:
            assert terminal.watch(20, lambda text: "crawl.py" in text), terminal.text()
            terminal.watch(3.5)  # rates are known from the second look on
            terminal.write("\x1b[B\x1b[B")
            terminal.watch(1.5)
            frame = terminal.frame()
            terminal.write("q")
            terminal.watch(2)
        self.safe("kill-all", "--force")
        return svg.still(frame, "safe.sh top", "safe.sh top: instances and their trees, live")

    def run(self) -> str:
        command = ["safe.sh", "run", "plan.json", "-j", "3"]
        with Terminal(command, self.env, str(PROJECT), 118, 24) as terminal:
            half = terminal.watch(30, lambda text: "2/8" in text or " 3 of 8" in text or "3/8" in text)
            terminal.watch(1.2)
            frame = terminal.frame()
            assert half, terminal.text()
            terminal.watch(30, lambda text: "output/result.json" in text)
        return svg.still(frame, "safe.sh run plan.json -j 3", "safe.sh run: a plan's live table in the middle of a run")


def _without_prompt(frame: Frame) -> Frame:
    """Without the empty prompt at the end."""
    rows = list(frame)
    while rows and "".join(cell.text for cell in rows[-1]).strip() in ("", "$", "#"):
        rows.pop()
    return tuple(rows)


def _paced(frames: list[tuple[float, Frame]]) -> list[tuple[float, Frame]]:
    """No two within 50 ms (the later one counts), and no pause longer than two seconds and a half."""
    kept: list[tuple[float, Frame]] = []
    for moment, frame in frames:
        if kept and moment - kept[-1][0] < 0.05:
            kept[-1] = (kept[-1][0], frame)
        else:
            kept.append((moment, frame))
    paced, now = [], 0.0
    for (moment, frame), (before, _) in zip(kept, [kept[0], *kept], strict=False):
        now += min(moment - before, 2.5)
        paced.append((now, frame))
    return paced
