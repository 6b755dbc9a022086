"""The contract driver with an executed keeper (``core.holder``) where the other has a forked one, and eight threads."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from helpers import contract_driver
from safesh import _platform
from safesh.core import holder
from safesh.model import Limits, StopPolicy


class HolderDriver(contract_driver.Driver):
    def __init__(self) -> None:
        super().__init__()
        self.errors = -1
        for _ in range(8):
            threading.Thread(target=threading.Event().wait, daemon=True).start()

    def do_hold(  # type: ignore[override]
        self,
        command: list[str],
        stop: dict[str, Any],
        env: dict[str, str] | None = None,
        run_id: str = "",
        cwd: str | None = "/",
        leak: bool = False,
        limits: dict[str, Any] | None = None,
        **_unused: Any,
    ) -> dict[str, int]:
        self.run_id = run_id
        if leak:
            os.set_inheritable(os.dup(1), True)
        _platform.become_subreaper()
        reading, writing = os.pipe()
        self.errors, errors = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY)
        try:
            self.link = holder.hold(
                command,
                run_id=run_id,
                env={**os.environ, **(env or {})},
                stdio=(null, writing, errors),
                stop=StopPolicy(**stop),
                cwd=cwd,
                limits=Limits.from_dict(limits or {}),
            )
        finally:
            for fd in (null, writing, errors):
                os.close(fd)
        os.set_blocking(reading, False)
        self.output = reading
        return {"pid": self.link.pid, "start": self.link.handle.start}

    def do_ends(self, deadline: float) -> list[str]:
        """All of both outputs, once nobody holds them any more; what came until the deadline otherwise, and "..."."""
        limit = time.monotonic() + deadline
        told = []
        for fd in (self.output, self.errors):
            data = b""
            while True:
                if not contract_driver._ready(fd, limit):
                    data += b"..."
                    break
                chunk = os.read(fd, 65536)
                if not chunk:
                    break
                data += chunk
            told.append(data.decode(errors="backslashreplace"))
        return told

    def do_refusal(self, message: dict[str, Any]) -> list[Any]:
        error = holder.refusal(message)
        return [type(error).__name__, error.exit_code, error.place]

    def do_descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def do_forget(self) -> None:
        for fd in (self.output, self.errors):
            os.close(fd)


if __name__ == "__main__":
    contract_driver.Driver = HolderDriver  # type: ignore[misc]
    sys.exit(contract_driver.main())
