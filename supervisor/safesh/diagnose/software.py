"""Python, its libraries, and what safe.toml names."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys

from safesh import _source, vendor
from safesh import config as configs
from safesh.diagnose.check import Finding, Subject, fail, ok, warn
from safesh.errors import SafeshError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.config import Config

OLDEST_PYTHON = (3, 11)
# As in setup.cfg; a test holds both against each other.
LIBRARIES = {
    "psutil": "5.9",
    "filelock": "3.12",
    "click": "8.1",
    "colorama": "0.4.6",
    "rich": "13",
    "msgspec": "0.18.5",
    "python-dotenv": "1.0",
}
MODULES = {"python-dotenv": "dotenv"}  # of a distribution that is imported by another name
# (module, distribution, what needs it)
EXTRAS = (
    ("apprise", "apprise", "notifications by mail and chat"),
    ("streamlit", "streamlit", "the dashboard"),
    ("dask", "dask", "plans over several machines"),
    ("pynvml", "nvidia-ml-py", "metrics of NVIDIA GPUs"),
    ("prometheus_client", "prometheus-client", "metrics for Prometheus"),
    ("plotext", "plotext", "charts in the terminal"),
)


def check_python(_subject: Subject) -> Finding:
    version = "%d.%d.%d" % sys.version_info[:3]
    # Without site, sys.prefix says nothing about the environment that the executable stands in.
    environment = os.path.dirname(os.path.dirname(sys.executable or "/"))
    inside = os.path.isfile(os.path.join(environment, "pyvenv.cfg"))
    kind = "virtual environment" if inside else "no virtual environment"
    found = f"{version} ({sys.implementation.name}), {sys.executable or 'unknown'}, {kind}"
    if sys.version_info < OLDEST_PYTHON:
        return fail(found, "install Python 3.11 or later, remove .venv, and call bin/safe.sh again")
    return ok(found)


def check_libraries(_subject: Subject) -> Finding:
    vendor.add_site_packages()
    good, bad = [], []
    for name, oldest in LIBRARIES.items():
        module = MODULES.get(name, name)
        try:
            importlib.import_module(module)  # found is not enough: one built for another Python cannot be imported
            version = importlib.metadata.version(name)
        except ImportError as error:
            missing = importlib.util.find_spec(module) is None
            bad.append(f"{name} is missing" if missing else f"{name} cannot be imported: {error}")
            continue
        if _numbers(version) < _numbers(oldest):
            bad.append(f"{name} {version} is older than {oldest}")
        else:
            good.append(f"{name} {version}")
    if bad:
        return fail("; ".join(bad), _install(*LIBRARIES))
    return ok(", ".join(good))


def check_extras(_subject: Subject) -> Finding:
    vendor.add_site_packages()
    there, missing = [], []
    for module, distribution, purpose in EXTRAS:
        if importlib.util.find_spec(module) is not None:
            there.append(f"{distribution} {_version(distribution)}".strip())
        else:
            missing.append(f"{distribution} ({purpose})")
    parts = [", ".join(there)] if there else []
    if missing:
        parts.append(f"not installed: {', '.join(missing)}")
    found = ok("; ".join(parts))
    if missing:
        found.remedy = _install("NAME")
    return found


def check_config(subject: Subject) -> Finding:
    config = read_config(subject)
    if config is None:
        return ok("no safe.toml here or above; start NAME -- CMD needs none")
    names = ", ".join(config.targets)
    return ok(f"{config.path}, project {config.project}, targets {names}")


def check_targets(subject: Subject) -> Finding:
    try:
        config = read_config(subject)
    except SafeshError:
        return ok("not looked at, for safe.toml is wrong")
    if config is None:
        return ok("none")
    problems, remedies = [], []
    for name in config.targets:
        try:
            spec = configs.resolve(config, name)
        except SafeshError as error:
            problems.append(str(error))
            remedies.append(error.hint)
            continue
        if why := _not_startable(spec.command[0], spec.cwd, spec.env.get("PATH")):
            problems.append(f"{name}: {why}")
            remedies.append(f"repair targets.{name}.command in {config.path}")
    if problems:
        return warn("; ".join(problems), "; ".join(dict.fromkeys(remedies)))
    return ok(f"{len(config.targets)} of {len(config.targets)} have their command, folder and env_file")


def read_config(subject: Subject) -> Config | None:
    """safe.toml as it stands, past the cache, which would be written; ConfigError or UsageError."""
    path = configs.find(explicit=subject.config)
    if path is None:
        return None
    vendor.add_site_packages()
    text, _info = _source.read(os.path.abspath(path), configs.display(path))
    try:
        from safesh import _targets
    except ImportError as error:
        raise SafeshError(
            f"safe.toml cannot be read without {error.name}", place=path, hint=_install(*LIBRARIES)
        ) from None
    return _targets.build(text, os.path.abspath(path))


def _not_startable(program: str, cwd: str, path: str | None) -> str:
    """Why execvp(3) would not find this program; "" when it would."""
    if "/" in program:
        file = os.path.join(cwd, program)
        if not os.path.exists(file):
            return f"there is no {file}"
        return "" if os.path.isfile(file) and os.access(file, os.X_OK) else f"{file} is not executable"
    return "" if shutil.which(program, path=path) else f"{program} is not on PATH"


def _install(*names: str) -> str:
    python = sys.executable or "python3"
    return f"{python} -m pip install {' '.join(names)}"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> list[int]:
    """The leading numbers of a version, which decide."""
    found = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return found
