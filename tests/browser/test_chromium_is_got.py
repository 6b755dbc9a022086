"""``make test`` finds a Chromium, or installs Debian's, or says how to get one; its tests are then skipped by name."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import browser
from helpers.home import ROOT

APT = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *install*"$REFUSED") echo "E: Unable to locate package"; exit 100 ;;
  *install*chromium) printf '#!/bin/sh\\n' >"$BIN/chromium"; chmod +x "$BIN/chromium" ;;
esac
"""


class Checkout:
    """scripts/test.sh, between stubs that note what they were called with; PATH has only what stands in bin/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        (folder / "scripts").mkdir()
        (folder / ".venv-dev" / "bin").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "scripts" / "test.sh", folder / "scripts")
        self.script(folder / "scripts" / "bootstrap.sh", '#!/bin/sh\necho "bootstrap $*" >>"$CALLS"\n')
        self.script(folder / ".venv-dev" / "bin" / "python", '#!/bin/sh\necho "tests $*" >>"$CALLS"\n')
        for name in ("sh", "bash", "cat", "chmod", "mktemp", "rm", "tail"):
            (self.bin / name).symlink_to(shutil.which(name) or f"/bin/{name}")
        for name in ("tmux", "strace"):
            self.script(self.bin / name, "#!/bin/sh\n")

    def script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def run(self, **more: str) -> tuple[str, list[str]]:
        """(what it said, what it called)."""
        environment = {"PATH": str(self.bin), "HOME": str(self.folder), "CALLS": str(self.calls), "BIN": str(self.bin),
                       "REFUSED": "nothing", **more}  # fmt: skip
        done = subprocess.run(
            [self.bin / "bash", "scripts/test.sh", "-k", "word"], cwd=self.folder, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        called = self.calls.read_text().splitlines()
        self.calls.unlink()
        assert called[-1] == "tests -m pytest -k word"  # the installing was waited for
        assert {"bootstrap .venv", "bootstrap .venv-dev --extras dev"} <= set(called)
        return done.stdout, [line for line in called if "bootstrap" not in line][:-1]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_one_that_is_there_is_taken(checkout: Checkout) -> None:
    checkout.script(checkout.bin / "chromium", "#!/bin/sh\n")
    checkout.script(checkout.bin / "apt-get", APT)
    assert checkout.run() == ("", [])


def test_one_that_was_named_or_playwrights_own_is_taken(checkout: Checkout) -> None:
    checkout.script(checkout.bin / "apt-get", APT)
    assert checkout.run(SAFESH_TEST_CHROMIUM="/opt/it") == ("", [])
    (checkout.folder / ".cache" / "ms-playwright" / "chromium-1200").mkdir(parents=True)
    assert checkout.run() == ("", [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_debians_is_installed_and_said_aloud(checkout: Checkout) -> None:
    checkout.script(checkout.bin / "apt-get", APT)
    said, called = checkout.run()
    assert said == "test.sh: installing with apt-get: chromium\n"
    assert called == ["update -qq", "install -y -qq --no-install-recommends chromium"]
    assert (checkout.bin / "chromium").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs packages")
def test_what_apt_cannot_install_is_said_and_the_tests_run_all_the_same(checkout: Checkout) -> None:
    checkout.script(checkout.bin / "apt-get", APT)
    (checkout.bin / "tmux").unlink()
    said, called = checkout.run(REFUSED="chromium")
    assert "E: Unable to locate package" in said
    assert "without chromium its tests are skipped: apt-get could not" in said
    assert "playwright install chromium" in said
    assert "without tmux" not in said  # one that cannot be had does not keep the others away
    assert called[1:] == [f"install -y -qq --no-install-recommends {name}" for name in ("tmux", "chromium")]


def test_without_apt_it_is_said_how(checkout: Checkout) -> None:
    said, called = checkout.run()
    assert "without chromium its tests are skipped: as root, apt-get install chromium" in said
    assert "SAFESH_TEST_CHROMIUM=" in said
    assert called == []


def test_without_a_chromium_its_tests_are_skipped_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "_CHOSEN", None)
    with pytest.raises(pytest.skip.Exception, match="no Chromium here: apt-get install chromium, or python -m"):
        browser.find_chromium(str(tmp_path / "none"))
    (tmp_path / "chromium").touch(mode=0o755)
    assert browser.find_chromium("") == str(tmp_path / "chromium")
