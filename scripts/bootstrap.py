"""Make the virtual environment that setup.cfg asks for: whole or not at all, once however many ask.

bootstrap.sh runs this with a Python that is new enough. The libraries of setup.cfg are installed, not safesh
itself: bin/safe.sh runs it from the checkout (``--package`` installs it too, for ``make install``).

The environment is built beside its place and renamed into it, its stamp inside, so whoever finds a stamp finds
a whole environment; what a killed build left behind is removed by the next one. A flock on ``<venv>-lock``
lets one build at a time. pip and uv inherit its descriptor: if only we are killed, the next start waits for
what still writes.
"""

from __future__ import annotations

import argparse
import configparser
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import NoReturn

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
SETUP_CFG = os.path.join(ROOT, "setup.cfg")
STAMP = ".safesh-stamp"
FORMAT = "safesh-venv-1"
EX_UNAVAILABLE = 69
TAIL = 8  # lines of pip's or uv's last words

# (what pip, uv, venv or the kernel say, what it means, what to do); the first match counts.
CAUSES = (
    (
        r"No space left on device|Disk quota exceeded|os error 28\b|os error 122\b|Errno 28\b|Errno 122\b",
        "the disk is full",
        "free about 100 MB, or set SAFESH_VENV to a folder on another disk (pip also needs room in TMPDIR)",
    ),
    (
        r"Read-only file system|Permission denied|os error 13\b|os error 30\b",
        "its folder cannot be written",
        "set SAFESH_VENV to a folder of yours, or let the checkout's owner call bin/safe.sh once",
    ),
    (
        r"ensurepip is not|No module named '?(?:venv|ensurepip)",
        "this Python came without its venv and ensurepip modules",
        f"Debian, Ubuntu: apt install python3.{sys.version_info.minor}-venv; or install uv; "
        "or let SAFESH_PYTHON name another Python",
    ),
    (
        r"Connection refused|Failed to establish a new connection|NewConnectionError|ConnectTimeout|Read timed out"
        r"|name resolution|Name or service not known|nodename nor servname|Network is unreachable|No route to host"
        r"|ProxyError|error sending request|dns error|tcp connect error|operation timed out|Could not connect",
        "the package index cannot be reached: is the network down?",
        "connect and start again; behind a proxy or a mirror, tell pip (HTTPS_PROXY, PIP_INDEX_URL)",
    ),
    (
        # Told not to try again, pip does not say that it could not connect.
        r"\(from versions: none\)",
        "the package index was not reached, or does not have what setup.cfg asks for",
        "look at the lines above; is the network up? then at [options] install_requires in setup.cfg",
    ),
    (
        r"No matching distribution|No solution found|ResolutionImpossible|because only .* is available",
        "the package index does not have what setup.cfg asks for",
        "look at the lines above, then at [options] install_requires in setup.cfg",
    ),
)


class Failed(Exception):
    """The environment cannot be made; ``output`` is what a tool said about it."""

    def __init__(self, message: str, hint: str, output: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.output = output


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to the command that is about to run."""
    print(f"safe.sh: {text}", file=sys.stderr, flush=True)


class Wanted:
    """What setup.cfg asks for at one moment: its bytes' hash, its modification time, its requirements."""

    def __init__(self, extras: list[str]) -> None:
        try:
            with open(SETUP_CFG, "rb") as file:
                data = file.read()
                self.mtime_ns = os.fstat(file.fileno()).st_mtime_ns
            parser = configparser.RawConfigParser()
            parser.read_string(data.decode())
        except (OSError, ValueError, configparser.Error) as error:
            problem = " ".join(str(error).split())
            raise Failed(f"{SETUP_CFG} cannot be read: {problem}", "restore it: git checkout setup.cfg") from None
        self.hash = hashlib.sha256(data).hexdigest()
        self.extras = extras
        lists = [parser.get("options", "install_requires", fallback="")]
        for extra in extras:
            if not parser.has_option("options.extras_require", extra):
                raise Failed(f"{SETUP_CFG} has no extra named {extra!r}", "see [options.extras_require] there")
            lists.append(parser.get("options.extras_require", extra))
        self.requirements = [line.strip() for text in lists for line in text.splitlines() if line.strip()]

    def stamp(self) -> str:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        lines = [f"{FORMAT} {self.hash} {version}", " ".join(self.extras), *self.requirements]
        return "\n".join(lines) + "\n"


class Stamp:
    """What the environment at ``venv`` was made for; ``whole`` is False when it cannot be used as it is."""

    def __init__(self, venv: str) -> None:
        self.path = os.path.join(venv, STAMP)
        self.exists = os.path.lexists(self.path)
        self.whole = False
        self.hash = ""
        self.extras: list[str] = []
        self.requirements: list[str] = []
        try:
            with open(self.path, encoding="utf-8") as file:
                first, extras, *self.requirements = file.read().splitlines()
            word, self.hash, version = first.split()
        except (OSError, ValueError):
            return
        self.extras = extras.split()
        packages = os.path.join(venv, "lib", f"python{version}", "site-packages")
        # The interpreter is a link to a versioned name, so it dangles once that Python was removed.
        python = os.path.join(venv, "bin", "python")
        self.whole = word == FORMAT and os.access(python, os.X_OK) and os.path.isdir(packages)

    def serves(self, wanted: Wanted) -> bool:
        same = self.hash == wanted.hash or self.requirements == wanted.requirements
        return self.whole and self.extras == wanted.extras and same

    def renew(self, wanted: Wanted) -> None:
        """Give the stamp setup.cfg's time, so that the next start does not ask again.

        Somebody else's environment may not let us: then every start compares, which costs time, not truth.
        """
        try:
            if self.hash != wanted.hash:
                write_stamp(os.path.dirname(self.path), wanted)
            else:
                os.utime(self.path, ns=(wanted.mtime_ns, wanted.mtime_ns))
        except OSError:
            pass


def write_stamp(venv: str, wanted: Wanted) -> None:
    path = os.path.join(venv, STAMP)
    new = f"{path}.{os.getpid()}"
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(wanted.stamp())
        os.utime(new, ns=(wanted.mtime_ns, wanted.mtime_ns))
        os.rename(new, path)
    finally:
        if os.path.lexists(new):
            os.unlink(new)


def lock(path: str) -> int:
    """The descriptor that holds the lock; waits for another start, and says so."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(fd, 32).decode("ascii", "replace").strip()
        say(f"another start (pid {holder or 'unknown'}) is making the virtual environment; waiting for it")
        fcntl.flock(fd, fcntl.LOCK_EX)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


class Builder:
    """Builds the environment at ``<venv>-building``, under the lock ``lock_fd``."""

    def __init__(self, venv: str, wanted: Wanted, lock_fd: int, package: bool) -> None:
        self.venv = venv
        self.place = f"{venv}-building"
        self.wanted = wanted
        self.lock_fd = lock_fd
        self.installs = list(wanted.requirements)
        if package:
            self.installs.append(ROOT)
        # The link has to name this very Python: /usr/bin/python3 may be another minor version tomorrow.
        self.base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        self.python = os.path.join(self.place, "bin", "python")

    def build(self) -> None:
        """Make it whole at ``place``; Failed says why not, and nothing is left there."""
        remove(self.place)
        try:
            self._install()
            self._fix_paths()
            write_stamp(self.place, self.wanted)
        except BaseException:
            remove(self.place)
            raise

    def _install(self) -> None:
        uv = shutil.which("uv")
        failure = ""
        if uv:
            try:
                self._run(
                    uv, "venv", "--quiet", "--no-project", "--prompt", "safesh", "--python", self.base, self.place
                )
                self._pip_install(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", self.python)
            except Failed as error:
                # uv does not read pip's configuration, where the way to a mirror may stand.
                lines = error.output.strip().splitlines()
                say(f"uv could not ({lines[-1].strip() if lines else error.message}); trying venv and pip")
                failure = error.output
                remove(self.place)
            else:
                return
        try:
            self._run(self.base, "-I", "-m", "venv", "--symlinks", "--without-pip", "--prompt", "safesh", self.place)
            self._run(self.python, "-I", "-m", "ensurepip", "--upgrade", "--default-pip")  # venv would hide why not
            self._pip_install(self.python, "-I", "-m", "pip", "install", "--quiet", "--no-user", "--no-input")
        except Failed as error:
            raise Failed(error.message, error.hint, failure + error.output) from None

    def _pip_install(self, *command: str) -> None:
        if self.installs:
            self._run(*command, *self.installs)

    def _run(self, *command: str) -> None:
        """Run it quietly; Failed carries what it said. Interrupted, we end it before we go."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=tool_environment(os.environ),
            cwd=ROOT,
            pass_fds=(self.lock_fd,),
        )
        try:
            output = process.communicate()[0]
        except BaseException:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        if process.returncode:
            raise explained(output, f"{os.path.basename(command[0])} ended with status {process.returncode}")

    def _fix_paths(self) -> None:
        """Let bin/'s scripts name the final place; only they and pyvenv.cfg hold the path they were made at."""
        folder = os.path.join(self.place, "bin")
        paths = [os.path.join(folder, name) for name in os.listdir(folder)]
        for path in [*paths, os.path.join(self.place, "pyvenv.cfg")]:
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                data = file.read()
            if os.fsencode(self.place) in data and b"\0" not in data:
                with open(path, "wb") as file:  # in place: the mode stays
                    file.write(data.replace(os.fsencode(self.place), os.fsencode(self.venv)))

    def publish(self) -> None:
        """Swap it in. A warm start between the two renames finds none, asks for the lock and then finds it."""
        old = f"{self.venv}-old"
        remove(old)
        if os.path.lexists(self.venv):
            os.rename(self.venv, old)
        os.rename(self.place, self.venv)
        remove(old)


def tool_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's, without what would lead pip, uv or Python astray from the new environment."""
    astray = {"PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER"}
    astray |= {"PIP_PYTHON", "PIP_DRY_RUN", "PIP_LOG_FILE", "UV_PYTHON", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX"}
    environment = {key: value for key, value in environ.items() if key not in astray}
    environment["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    environment.setdefault("PIP_RETRIES", "2")  # five, the default, keep a user without a network waiting for 15 s
    return environment


def explained(output: str, otherwise: str) -> Failed:
    """The cause that ``output`` names, else ``otherwise``."""
    for pattern, message, hint in CAUSES:
        if re.search(pattern, output):
            return Failed(message, hint, output)
    return Failed(otherwise, "look at the lines above", output)


def remove(path: str) -> None:
    """Whatever is there, also as a link; gone already is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)  # again, for its error
        else:
            os.unlink(path)


def make_room(venv: str, stamp: Stamp) -> None:
    """What stands at ``venv`` and is not ours: a foreign environment steps aside, anything else is not touched."""
    if stamp.exists or not os.path.lexists(venv) or (os.path.isdir(venv) and not os.listdir(venv)):
        return
    if not os.path.isfile(os.path.join(venv, "pyvenv.cfg")):
        raise Failed(
            f"{venv} is there and is not a virtual environment", "move it away, or let SAFESH_VENV name another place"
        )
    number = 1
    while os.path.lexists(aside := f"{venv}-yours-{number}"):
        number += 1
    os.rename(venv, aside)
    say(f"the virtual environment at {venv} was not made by safesh; it is now {aside}")


def prepare(venv: str, extras: list[str], package: bool, force: bool) -> None:
    """``venv`` serves setup.cfg as it is now when this returns."""
    wanted, stamp = survey(venv, extras)
    if stamp.serves(wanted) and not force:
        stamp.renew(wanted)
        return
    fd = lock(f"{venv}-lock")
    try:
        wanted, stamp = survey(venv, extras)  # who waited finds it made
        if stamp.serves(wanted) and not force:
            stamp.renew(wanted)
            return
        make_room(venv, stamp)
        began = time.monotonic()
        version = "%d.%d.%d" % sys.version_info[:3]
        why = "setup.cfg changed" if stamp.whole else "once"
        say(f"making the virtual environment {venv} ({why}; Python {version})")
        builder = Builder(venv, wanted, fd, package)
        builder.build()
        builder.publish()
        compile_sources(venv)
        say(f"the virtual environment is ready ({time.monotonic() - began:.0f} s)")
    finally:
        os.close(fd)


def survey(venv: str, extras: list[str]) -> tuple[Wanted, Stamp]:
    """What is asked for and what is there; extras installed once are kept."""
    stamp = Stamp(venv)
    return Wanted(sorted({*extras, *stamp.extras} if stamp.whole else extras)), stamp


def compile_sources(venv: str) -> None:
    """Bytecode for supervisor/, so that the first start is a fast one; a closed folder is no error."""
    command = [os.path.join(venv, "bin", "python"), "-I", "-m", "compileall", "-q", os.path.join(ROOT, "supervisor")]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def give_up(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bootstrap.sh", description="Make or renew the virtual environment VENV.")
    parser.add_argument("venv", metavar="VENV")
    parser.add_argument("--extras", default="", help="extras of setup.cfg to install too, with commas between")
    parser.add_argument("--package", action="store_true", help="install safesh itself too")
    parser.add_argument("--force", action="store_true", help="make it anew in any case")
    args = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, give_up)
    venv = os.path.realpath(args.venv)  # a link to another disk stays a link
    try:
        prepare(venv, [name for name in args.extras.split(",") if name], args.package, args.force)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        path = error.filename or venv
        failure = explained(str(error), error.strerror or str(error))
        failure = Failed(f"{failure.message} ({path}: {error.strerror})", failure.hint)
        return report(venv, failure)
    except Failed as failure:
        return report(venv, failure)
    return 0


def report(venv: str, failure: Failed) -> int:
    for line in failure.output.strip().splitlines()[-TAIL:]:
        print(f"  | {line}", file=sys.stderr)
    say(f"cannot make the virtual environment {venv}: {failure.message}")
    print(f"  next: {failure.hint}", file=sys.stderr)
    return EX_UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
