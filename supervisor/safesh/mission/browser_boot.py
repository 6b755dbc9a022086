"""Runs a mission's code with a Chromium: ``python -I browser_boot.py SPEC.json ARGS...``.

It runs in the mission's own environment, so it imports nothing of ours. SPEC: ``code`` (the file), ``temporary`` (a
folder for the browser's profile, removed by whoever made it), ``chromium`` (an executable, "" to find one), ``problem``
(a file that is told why there is no browser), ``ready`` (a file that is made once there is one, or "").
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
import types
from typing import Any, NoReturn

UNAVAILABLE = 69  # EX_UNAVAILABLE
_OTHERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def main(words: list[str]) -> None:
    with open(words[0], encoding="utf-8") as file:
        spec: dict[str, str] = json.load(file)
    try:
        from playwright.sync_api import sync_playwright  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        _give_up(spec, "playwright", str(error))
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = spec["temporary"]  # where the driver makes the profile; its environment is ours as of now
    try:
        manager = sync_playwright().start()
    except Exception as error:
        _give_up(spec, "playwright", f"{type(error).__name__}: {error}")
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
    try:
        try:
            browser = manager.chromium.launch(executable_path=_find(spec["chromium"], manager.chromium.executable_path))
            page = browser.new_page()
        except Exception as error:
            _give_up(spec, "chromium", str(error).strip())
        if spec["ready"]:
            with open(spec["ready"], "w"):
                pass
        try:
            _run(spec["code"], words[1:], browser, page)
        finally:
            try:
                browser.close()
            except Exception:
                pass  # the code closed it, or it crashed; whoever holds us ends what is left
    finally:
        try:
            manager.stop()
        except Exception:
            pass


def _find(wished: str, own: str) -> str | None:
    """The executable: the one wished for, None for Playwright's own, else one of the system's."""
    if wished or os.path.exists(own):
        return wished or None
    for name in _OTHERS:
        found = shutil.which(name)
        if found is not None:
            return found
    return None


def _run(path: str, args: list[str], browser: Any, page: Any) -> None:
    """The code, as ``python FILE ARGS`` would run it, with two names more."""
    module: Any = types.ModuleType("__main__")
    module.__file__ = path
    module.browser = browser
    module.page = page
    sys.modules["__main__"] = module
    sys.argv = [path, *args]
    try:
        with open(path, "rb") as file:
            code = compile(file.read(), path, "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except Exception as error:
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace.tb_next if trace is not None else None)
        sys.exit(1)


def _give_up(spec: dict[str, str], missing: str, message: str) -> NoReturn:
    line = " ".join(message.split())[:400]
    with open(spec["problem"], "w", encoding="utf-8") as file:
        json.dump({"missing": missing, "message": line}, file)
    sys.stderr.write(f"no browser: {line}\n")
    sys.exit(UNAVAILABLE)


if __name__ == "__main__":
    main(sys.argv[1:])
