"""Third-party libraries for a command that runs without ``site``, checked to be there."""

from __future__ import annotations

import os
import sys

from safesh import vendor
from safesh.errors import SafeshError

_WITNESS = "click"  # they are installed together, so one stands for all


class LibraryMissing(SafeshError):
    """The Python we run in lacks the libraries of setup.cfg (EX_UNAVAILABLE)."""

    exit_code = 69


def add_site_packages() -> None:
    """Make the libraries importable; does nothing where they are (installed with pip, or by PYTHONPATH).

    LibraryMissing says which Python lacks them and what to run.
    """
    if _importable():
        return
    vendor.add_site_packages()
    if not _importable():
        raise LibraryMissing(
            f"the libraries that safesh needs ({_WITNESS} and others) are not installed for this Python",
            place=sys.executable or "python",
            hint="call bin/safe.sh, which installs them (remove .venv first if it did), or: python3 -m pip install .",
        )


def _importable() -> bool:
    """One stat a folder: ``importlib.util.find_spec`` would bring importlib's machinery along."""
    if _WITNESS in sys.modules:
        return True
    return any(os.path.isfile(os.path.join(folder, _WITNESS, "__init__.py")) for folder in sys.path)
