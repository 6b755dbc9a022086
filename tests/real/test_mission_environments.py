"""Requirements, really installed: from wheels and sources that the test makes, without any network."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from helpers import commands, procs
from helpers.home import SUPERVISOR, Home, Safe
from safesh.mission import store
from safesh.mission.environment import Environments
from safesh.mission.errors import EnvironmentFailed
from safesh.mission.installer import Wish
from safesh.mission.model import Mission
from safesh.mission.result import MissionResult
from safesh.mission.runner import TaskRunner

HAS_UV = shutil.which("uv") is not None or os.access(os.path.join(os.path.dirname(sys.executable), "uv"), os.X_OK)
BOTH: list[object] = ["pip", pytest.param("uv", marks=pytest.mark.skipif(not HAS_UV, reason="uv is not installed"))]
BACKEND = """
import os, pathlib, time, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    hold = os.environ.get("TEST_HOLD_BUILD")
    if hold:
        pathlib.Path(hold).touch()
        time.sleep(60)
    name = "zz_slow-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("zz_slow.py", "answer = 43\\n")
        wheel.writestr("zz_slow-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: zz-slow\\nVersion: 1.0\\n")
        about = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        wheel.writestr("zz_slow-1.0.dist-info/WHEEL", about)
        wheel.writestr("zz_slow-1.0.dist-info/RECORD", "")
    return name
"""
METADATA = "Metadata-Version: 2.1\nName: zz-slow\nVersion: 1.0\n"


@pytest.fixture(autouse=True, scope="module")
def _loop_runs() -> Iterator[None]:
    yield from commands.warm()


@pytest.fixture(autouse=True)
def _nobody_stays() -> Iterator[None]:
    yield from commands.tidy()


def make_wheel(folder: Path, name: str, version: str, needs: str = "", code: str = "") -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {needs}\n" if needs else ""
    )
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", code or f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_source(folder: Path) -> None:
    """A source distribution that is its own build backend, so that building it needs nothing else."""
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    project += '[project]\nname = "zz-slow"\nversion = "1.0"\n'
    with tarfile.open(folder / "zz_slow-1.0.tar.gz", "w:gz") as archive:
        for name, text in (("pyproject.toml", project), ("backend.py", BACKEND), ("PKG-INFO", METADATA)):
            data = text.encode()
            member = tarfile.TarInfo(f"zz_slow-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, BytesIO(data))


@pytest.fixture
def wheels(home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages, the only place where the installers look."""
    folder = home.path / "wheels"
    folder.mkdir()
    make_wheel(folder, "zz_top", "1.0", needs="zz-base>=1")
    make_wheel(folder, "zz_base", "1.0")
    make_source(folder)
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    for name, value in (
        ("PIP_CONFIG_FILE", os.devnull), ("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(folder)),
        ("UV_NO_CONFIG", "1"), ("UV_OFFLINE", "1"), ("UV_FIND_LINKS", str(folder)),
        ("UV_CACHE_DIR", str(home.path / "uv")), ("PIP_CACHE_DIR", str(home.path / "pip")),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    return folder


def run(mission: Mission, wish: Wish = "pip", fresh: float = 86400.0) -> MissionResult:
    environments = Environments(installer=wish, fresh=fresh)
    with TaskRunner("d", log=False, thresholds=False, environments=environments) as runner:
        return runner.execute_mission(mission, "s")


CODE = "import zz_top, zz_base, sys\nprint(zz_top.version, zz_base.version, sys.prefix)"


@pytest.mark.parametrize("wish", BOTH)
def test_a_mission_has_its_requirements_and_the_next_one_does_not_wait(wheels: Path, wish: Wish) -> None:
    first = run(Mission("fit", CODE, ["zz-top"]), wish)
    assert first.success, first
    assert first.environment is not None
    assert not first.environment.cached
    assert first.environment.installer == wish
    assert [one.replace("_", "-") for one in first.environment.resolved] == ["zz-base==1.0", "zz-top==1.0"]
    assert first.stdout == f"1.0 1.0 {first.environment.path}\n"
    second = run(Mission("other", CODE, ["zz-top"]), wish)
    assert second.success
    assert second.environment is not None
    assert second.environment.cached
    assert second.environment.path == first.environment.path
    assert second.environment.seconds < 0.5
    assert os.listdir(store.folder("runs")) == []


@pytest.mark.parametrize("wish", BOTH)
def test_a_source_distribution_is_built(wheels: Path, wish: Wish) -> None:
    result = run(Mission("fit", "import zz_slow\nprint(zz_slow.answer)", ["zz-slow"]), wish)
    assert result.stdout == "43\n", result


@pytest.mark.parametrize("wish", BOTH)
def test_a_built_environment_needs_no_index_any_more(wheels: Path, wish: Wish) -> None:
    assert run(Mission("fit", CODE, ["zz-top"]), wish).success
    shutil.rmtree(wheels)
    shutil.rmtree(os.environ["UV_CACHE_DIR"], ignore_errors=True)
    assert run(Mission("fit", CODE, ["zz-top"]), wish).success
    late = run(Mission("fit", CODE, ["zz-top"]), wish, fresh=0.0)
    assert late.success, late
    assert late.environment is not None
    assert "not anew" in late.environment.note


@pytest.mark.parametrize("wish", BOTH)
def test_what_nobody_has_is_told_plainly_and_nothing_runs(wheels: Path, home: Home, wish: Wish) -> None:
    result = run(Mission("fit", "open('ran', 'w')", ["zz-missing>=2"]), wish)
    assert isinstance(result.error, EnvironmentFailed)
    assert "zz-missing" in result.reason
    assert "Traceback" not in result.reason
    assert result.error.hint
    assert not (home.project / "ran").exists()
    assert os.listdir(store.folder("runs")) == []


@pytest.mark.parametrize("wish", BOTH)
def test_an_index_out_of_reach_is_told_with_what_to_do(
    wheels: Path, home: Home, monkeypatch: pytest.MonkeyPatch, wish: Wish
) -> None:
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "UV_OFFLINE", "UV_FIND_LINKS"):
        monkeypatch.delenv(name)
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")  # discard: nobody listens
    result = run(Mission("fit", "pass", ["zz-top"]), wish)
    assert isinstance(result.error, EnvironmentFailed)
    assert result.error.offline
    assert "cannot be reached" in result.reason
    assert "FIND_LINKS" in result.error.hint


def test_several_missions_at_once_share_one_build(wheels: Path) -> None:
    found: list[MissionResult] = []
    threads = [
        threading.Thread(target=lambda: found.append(run(Mission("fit", CODE, ["zz-top"])))) for _number in range(3)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join(90)
    assert [one.success for one in found] == [True] * 3, found
    environments = [one.environment for one in found if one.environment is not None]
    assert [one.cached for one in environments].count(False) == 1
    assert len({one.path for one in environments}) == 1


CALLER = """
import sys
sys.path.insert(0, sys.argv[1])
from safesh import Mission, TaskRunner
print(TaskRunner("d", thresholds=False, installer="pip").execute_mission(
    Mission("fit", "import zz_slow\\nprint(zz_slow.answer)", ["zz-slow"]), "s").stdout)
"""


def test_a_killed_build_leaves_nobody_and_nothing_that_is_used(
    wheels: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    building = home.path / "building"
    with procs.spawn(
        sys.executable, "-c", CALLER, str(SUPERVISOR), extra_env={"TEST_HOLD_BUILD": str(building)}
    ) as caller:
        procs.wait_until(building.exists, 60)
        others = [(one.pid, one.start) for one in procs.tree_of(caller.pid) if one.pid != caller.pid]
        assert others
        caller.send(signal.SIGKILL)
        caller.wait()
        procs.wait_until(lambda: not any(procs.alive(*one) for one in others) and not caller.members(), 15)
    result = run(Mission("fit", "import zz_slow\nprint(zz_slow.answer)", ["zz-slow"]))
    assert result.stdout == "43\n", result
    assert os.listdir(store.folder("runs")) == []


def test_the_callers_environment_is_left_as_it_is(wheels: Path) -> None:
    names = [
        sys.executable,
        "-I",
        "-c",
        "import importlib.metadata as m; print(sorted(str(d.name) for d in m.distributions()))",
    ]
    before = subprocess.run(names, capture_output=True, check=True, timeout=30).stdout
    assert run(Mission("fit", CODE, ["zz-top"])).success
    assert subprocess.run(names, capture_output=True, check=True, timeout=30).stdout == before


def test_programs_of_the_requirements_are_found(wheels: Path) -> None:
    code = (
        "import os, shutil\nprint(shutil.which('python') == os.path.join(os.environ['VIRTUAL_ENV'], 'bin', 'python'))"
    )
    assert run(Mission("fit", code, ["zz-base"])).stdout == "True\n"


def test_a_wheel_named_by_its_file_is_not_mistaken_for_the_one_before(wheels: Path) -> None:
    path = make_wheel(wheels, "zz_own", "1.0", code="answer = 1\n")
    wish = [f"zz-own @ file://{path}"]
    assert run(Mission("fit", "import zz_own\nprint(zz_own.answer)", wish)).stdout == "1\n"
    make_wheel(wheels, "zz_own", "1.0", code="answer = 'another'\n")
    assert run(Mission("fit", "import zz_own\nprint(zz_own.answer)", wish)).stdout == "another\n"


def test_an_environment_of_a_living_instance_is_not_pruned(wheels: Path, safe: Safe) -> None:
    mission = Mission("watch", "import zz_base, time\nprint('up')\ntime.sleep(60)", ["zz-base"], keep_alive=True)
    with TaskRunner("d", log=False, thresholds=False, installer="pip") as runner:
        try:
            result = runner.execute_mission(mission, "s")
            assert result.success, result
            assert result.environment is not None
            assert runner.prune_environments() == []
        finally:
            safe("stop", "watch", "--force", "--now").check(0)
        assert runner.prune_environments() == [result.environment.path]


def test_a_script_that_names_its_requirements_runs_from_the_command_line(wheels: Path, home: Home, safe: Safe) -> None:
    text = '# /// script\n# dependencies = ["zz-top"]\n# ///\n'
    text += "import zz_top, zz_own\nprint(zz_top.version, zz_own.version)\n"
    (home.project / "fit.py").write_text(text)
    (home.project / "needs.txt").write_text("zz-own  # ours\n")
    make_wheel(wheels, "zz_own", "2.0")
    done = safe("mission", "fit.py", "--anyway", "--requirements", "needs.txt", "-r", "zz-base", deadline=90).check(0)
    assert done.out == "1.0 2.0\n"
    missing = safe("mission", "fit.py", "--anyway", "--require", "zz-missing", deadline=90).check(69)
    assert "zz-missing" in missing.err
