"""A command of safesh under way, and one that has ended."""

from __future__ import annotations

import subprocess
import time
from typing import IO, NamedTuple

from faults import processes

DEADLINE = 30.0  # seconds for one command; longer is a hang


class Done(NamedTuple):
    """A command that has ended. ``hung``: what it waited for when it had to be killed at its deadline."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    seconds: float
    hung: str = ""

    def __str__(self) -> str:
        said = f"\n    out: {_end(self.out)}" if self.out.strip() else ""
        said += f"\n    err: {_end(self.err)}" if self.err.strip() else ""
        said += f"\n    HUNG: {self.hung}" if self.hung else ""
        return f"safe.sh {' '.join(self.argv)} -> {self.code} in {self.seconds:.2f} s{said}"


def _end(text: str, most: int = 500) -> str:
    text = text.strip()
    return text if len(text) <= most else "... " + text[-most:]


class Command:
    """A command under way."""

    def __init__(self, argv: tuple[str, ...], child: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> None:
        self.argv = argv
        self.child = child
        self.began = time.monotonic()
        self._out, self._err = out, err
        self.done: Done | None = None

    def poll(self) -> bool:
        return self.child.poll() is not None

    def wait(self, timeout: float = DEADLINE) -> Done:
        """Its end; after ``timeout`` seconds it is killed, and what it waited for is told."""
        if self.done is not None:
            return self.done
        hung = ""
        try:
            self.child.wait(max(0.001, timeout))
        except subprocess.TimeoutExpired:
            hung = processes.stuck(self.child.pid)
            self.child.kill()
            self.child.wait()
        seconds = time.monotonic() - self.began
        texts: list[str] = []
        for file in (self._out, self._err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
            file.close()
        self.done = Done(self.argv, self.child.returncode, texts[0], texts[1], seconds, hung)
        return self.done
