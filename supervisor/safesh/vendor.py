"""Third-party libraries for processes that run with ``-S``: their folder, found without ``site``.

``site`` costs 5 ms at every start, so ``bin/safe.sh`` runs Python without it and the few rooms that need a
library call :func:`add_site_packages` first.
"""

from __future__ import annotations

import os
import sys


def add_site_packages() -> None:
    """Make installed libraries importable; does nothing where they are already.

    In a virtual environment its own site-packages joins the end of ``sys.path`` (no ``.pth`` file is read:
    they are for editable installs, and ours is on the path already). Elsewhere ``site`` itself decides.
    """
    if not sys.flags.no_site:  # site ran at the start of this process
        return
    folder = _own_site_packages()
    if folder is None:
        import site

        site.main()
    elif folder not in sys.path:
        sys.path.append(folder)


def _own_site_packages() -> str | None:
    """The site-packages of the environment ``sys.executable`` stands in; None when site has to decide.

    The layout is venv's: ``pyvenv.cfg`` one folder above the executable, whose symlink is not followed.
    """
    root = os.path.dirname(os.path.dirname(sys.executable))
    try:
        with open(os.path.join(root, "pyvenv.cfg"), encoding="utf-8") as file:
            lines = file.read().lower().splitlines()
    except (OSError, ValueError):
        return None
    for line in lines:
        key, _, value = line.partition("=")
        if key.strip() == "include-system-site-packages" and value.strip() == "true":
            return None
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = os.path.join(root, "lib", name, "site-packages")
    return folder if os.path.isdir(folder) else None
