"""Where third-party libraries are found by a process that runs without site."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import safesh
from safesh import vendor

SOURCE = str(Path(safesh.__file__).parents[1])
NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment's layout, with our interpreter seeming to stand in it."""
    (tmp_path / "lib" / NAME / "site-packages").mkdir(parents=True)
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3\n", encoding="utf-8")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    return tmp_path


def test_an_environments_own_folder_is_found(environment: Path) -> None:
    assert vendor._own_site_packages() == str(environment / "lib" / NAME / "site-packages")


@pytest.mark.parametrize("config", [None, "include-system-site-packages = TRUE\n", b"\xff"])
def test_where_the_layout_is_another_site_decides(environment: Path, config: str | bytes | None) -> None:
    (environment / "pyvenv.cfg").unlink()
    if config is not None:
        data = config if isinstance(config, bytes) else config.encode()
        (environment / "pyvenv.cfg").write_bytes(data)
    assert vendor._own_site_packages() is None


def test_where_site_ran_nothing_is_added(environment: Path) -> None:
    before = list(sys.path)
    vendor.add_site_packages()
    assert sys.path == before


def run(executable: str, code: str) -> str:
    script = f"import sys; sys.path.insert(0, {SOURCE!r})\nfrom safesh import vendor\n{code}"
    done = subprocess.run(
        [executable, "-S", "-E", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_without_site_a_library_is_importable_afterwards_and_twice_adds_once() -> None:
    twice = "vendor.add_site_packages(); before = len(sys.path); vendor.add_site_packages()"
    code = f"{twice}; import msgspec; print(len(sys.path) - before)"
    assert run(sys.executable, code) == "0"


@pytest.mark.skipif(sys.prefix == sys.base_prefix, reason="runs outside any environment already")
def test_outside_an_environment_site_adds_the_systems_folders() -> None:
    code = "vendor.add_site_packages(); import site; print(set(site.getsitepackages()) & set(sys.path) != set())"
    assert run(str(Path(sys.executable).resolve()), code) == "True"
