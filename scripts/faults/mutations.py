"""Who watches the watchers: safesh broken on purpose, in a copy, in one place at a time; the campaign has to notice.

Not a part of ``make faults``: ``scripts/faults.py --only mutations``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from faults import campaign
from faults.namespace import ROOT
from faults.part import Figure, Options, Part, PartError

_STEPS = 600  # at most, until it is noticed


class Mutation(NamedTuple):
    """What is broken: in ``file`` (of the package) the text ``old`` becomes ``new``. focus: the disturbances that it
    takes, so that it does not take thousands of steps; "": any."""

    what: str
    file: str
    old: str
    new: str
    focus: str = ""


# The file, what is wrong with it then; the lines that go, and after "=" those that come instead.
_TEXT = """
core/keeper.py: a keeper leaves the tree of a dead supervisor alone
        policy, now = self.order or
=
        if self.orphaned:
            return 0
        policy, now = self.order or
%
core/keeper.py: the main process alone is ended
        verdict = kill.insist(
=
        os.kill(self.main[0], 9)
        verdict = Verdict(run_id=self.run.run_id)
        (lambda *_: None)(
%
core/keeper.py: the target inherits the lock
        stdio = (run.stdin, run.output[1]
=
        os.dup2(run.keep_open[0], run.output[1], True)
        stdio = (run.stdin, run.output[1]
%
instance/lock.py: the lock is shared, not exclusive
            fcntl.flock(fd, fcntl.LOCK_EX |
=
            fcntl.flock(fd, fcntl.LOCK_SH |
%
instance/lock.py: a refused start waits for ever
        if is_alive(holder) or is_elsewhere(holder) or monotonic() >= deadline:
=
        if False:
%
supervise/run.py: the keeper does not hold the lock
[self.lock.fd, *(
=
[*(
%
supervise/supervisor.py: a lost keeper is ignored
            self.feed("keeper_lost")
=
            pass
%
supervise/launch.py: a start does not look for strays
    if finder.patterns or not _platform.HAS_SUBREAPER:
        return True
=
    return False
%
supervise/launch.py with state folder moved away: a removed state folder hides what runs
    if last is None:
        return True
=
    if last is None:
        return False
%
cli/ending.py: stop ends nobody and says that it did
    waiting = list(endings)
=
    return [(one, Verdict(target=one.target)) for one in endings]
%
cli/restart.py: an exception in restart
"if_fits": False,
=

%
core/kill.py: nobody is killed after the grace
            survivors = ending.kill(monotonic() + KILL_SECONDS)
=
            survivors = {}
%
instance/strays.py with state folder moved away: a supervisor whose lock and record are gone is not found
                elif self._has_lock(pid):
=
                elif False:
%
instance/strays.py: whoever is called sleep is taken for a stray
        if pid in in_group:
=
        if one.command.startswith("sleep"):
            return "it sleeps"
        if pid in in_group:
%
paths.py with state file a symlink: files are opened through symlinks
flags | os.O_NOFOLLOW |
=
flags |
%
paths.py: the record is written in place, in two pieces
    temporary = f"{path}.{os.getpid()}.tmp"
=
    import time

    with open(path, "w") as file:
        file.write(text[:99])
        file.flush()
        time.sleep(0.05)
        file.write(text[99:])
    return
    temporary = ""
%
_platform/cgroup.py: the cgroup of a run is never removed
        os.rmdir(folder)
=
        pass
"""


def _mutations() -> list[Mutation]:
    found = []
    for text in _TEXT.strip("\n").split("\n%\n"):
        head, _, rest = text.partition("\n")
        old, _, new = rest.partition("\n=\n")
        file, _, what = head.partition(": ")
        file, _, focus = file.partition(" with ")
        found.append(Mutation(what, file, old, new, focus))
    return found


ALL = _mutations()


def run(options: Options) -> Part:
    begin = time.monotonic()
    figures, failures = [], []
    steps = options.steps or (60 if options.quick else _STEPS)
    for one in ALL:
        with tempfile.TemporaryDirectory(prefix="safesh-faults-mutant-") as folder:
            main = _copy(Path(folder), one)
            environ = {**os.environ, "FAULTS_MAIN": str(main), "FAULTS_DISTURBANCES": one.focus}
            found = campaign.sweep(options.seed, steps, options.workers, environ, loud=False, first=True)
        if found.failures:
            first = found.failures[0]
            said = first["problems"][0].splitlines()[0][:110]
            measured = f"noticed, seed {first['seed']} step {first['step']}"
            figures.append(Figure(one.what, measured, "noticed", True, said))
            shutil.rmtree(first["evidence"], ignore_errors=True)
        else:
            figures.append(Figure(one.what, f"not noticed in {found.total} steps", "noticed", False))
            failures.append(f"the campaign does not notice it when {one.what}")
        print(f"  {figures[-1].what}: {figures[-1].measured}: {figures[-1].note}", flush=True)
    about = "safesh broken in one place, in a copy; the campaign runs until an invariant is violated."
    return Part("mutations", "Mutations", about, figures, failures, time.monotonic() - begin)


def _copy(folder: Path, one: Mutation) -> Path:
    package = folder / "safesh"
    shutil.copytree(ROOT / "supervisor" / "safesh", package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / one.file
    text = path.read_text(encoding="utf-8")
    if text.count(one.old) < 1:
        raise PartError(f"{one.file} has no {one.old!r} any more; next: renew scripts/faults/mutations.py")
    path.write_text(text.replace(one.old, one.new, 1), encoding="utf-8")
    compile(path.read_text(encoding="utf-8"), str(path), "exec")
    return package / "__main__.py"
