"""``init`` on real folders: what it writes starts what the source describes; what is in its way stays as it is."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import procs
from helpers.campaign import in_full
from helpers.home import CLI, Home, Safe
from helpers.imports import CASES, Case

pytestmark = pytest.mark.timeout(120)

# Each way of saying it that needs a shell, a folder, variables, a user or a file of its own; test_importers_cases
# compares the translation of all of them in every run.
QUICK = ["procfile-foreman", "procfile-odd", "procfile-shell", "supervisord-broken", "supervisord-env",
         "supervisord-include", "supervisord-special", "supervisord-syntax", "systemd-envfile", "systemd-forking",
         "systemd-notify", "systemd-oneshot", "systemd-template"]  # fmt: skip


@pytest.fixture
def case(request: pytest.FixtureRequest, home: Home) -> Case:
    made = Case(request.param, home.project, home.path.parent / "stubs")
    made.make_stand_ins()
    return made


def called(home: Home, safe: Safe, name: str) -> dict[str, Any]:
    """What the program behind the target ``name`` said of itself."""

    def said() -> dict[str, Any] | None:
        log = home.state_file(f"{name}.log")
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
        return next((json.loads(line[7:]) for line in lines if line.startswith("CALLED ") and line.endswith("}")), None)

    with safe.started(name):
        found = procs.wait_until(said, what=f"what {name} says")
        assert found is not None
        safe("stop", name, "--force", "--timeout", "5s").check()
    assert procs.marked("SAFESH_INSTANCE", str(home.state_file(name))) == []
    return found


@pytest.mark.parametrize("case", in_full(QUICK, *(name for name in CASES if name not in QUICK)), indirect=True)
def test_what_is_made_of_it_starts_what_it_describes(
    case: Case, home: Home, safe: Safe, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {"PATH": f"{case.stubs}:{os.environ['PATH']}", **case.environ}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    done = safe("init", "--from", str(case.source)).check()
    answer = safe("init", "--from", str(case.source), "--print", "--json").check().json()
    assert set(answer["targets"]) == set(case.describes)
    for note in answer["untranslated"]:
        assert f"{note['file']}:{note['line']}: " in done.err
    for name, wanted in case.describes.items():
        found = called(home, safe, name)
        program, *arguments = wanted["argv"]
        expected = [os.path.expanduser(word) if word.startswith("~/") else word for word in arguments]
        assert (os.path.basename(found["argv"][0]), found["argv"][1:]) == (os.path.basename(program), expected)
        assert os.path.realpath(found["cwd"]) == os.path.realpath(home.project / wanted.get("cwd", "."))
        assert {key: found["env"].get(key) for key in wanted.get("env", {})} == wanted.get("env", {})


# --- what is translated, and what is written where -------------------------------------------------------------------


def test_an_empty_folder_gets_a_commented_file_that_runs_as_it_is(home: Home, safe: Safe) -> None:
    done = safe("init").check()
    assert "safe.toml written: app" in done.out
    assert done.err == ""
    file = home.project / "safe.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    with safe.started("app"):
        assert safe("status", "app").rc == 0
    assert os.listdir(home.project) == ["safe.toml"]


def test_a_file_that_is_there_is_never_written_over(home: Home, safe: Safe) -> None:
    file = home.write_config("# mine\n")
    for line in (["init"], ["init", "--json"]):
        refused = safe(*line).check(2)
        assert "safe.toml: is there already" in refused.err
        assert "init --force" in refused.err
    assert file.read_text() == "# mine\n"
    safe("init", "--force").check()
    assert "[targets.app]" in file.read_text()
    assert os.listdir(home.project) == ["safe.toml"]


def test_force_writes_through_a_symlink_and_leaves_it(home: Home, safe: Safe) -> None:
    real = home.path / "kept.toml"
    real.write_text("old")
    (home.project / "safe.toml").symlink_to(real)
    safe("init").check(2)
    assert real.read_text() == "old"
    safe("init", "--force").check()
    assert (home.project / "safe.toml").is_symlink()
    assert "[targets.app]" in real.read_text()


def test_of_many_at_once_one_writes_and_the_others_are_refused(home: Home) -> None:
    (home.project / "Procfile").write_text("web: sleep 5\n")
    children = [subprocess.Popen([*CLI, "init"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)]
    codes = []
    for child in children:
        child.communicate(timeout=60)
        codes.append(child.returncode)
    assert sorted(codes) == [0] + [2] * 7
    assert sorted(os.listdir(home.project)) == ["Procfile", "safe.toml"]


def test_print_writes_nothing_and_gives_the_same_text(home: Home, safe: Safe) -> None:
    (home.project / "Procfile").write_text("web: sleep 5\nbroken\n")
    shown = safe("init", "--print").check()
    assert os.listdir(home.project) == ["Procfile"]
    assert shown.err.startswith("Procfile:2: broken: ")
    safe("init").check()
    assert (home.project / "safe.toml").read_text() == shown.out


def test_json_names_the_file_the_targets_and_every_line_left_out(home: Home, safe: Safe) -> None:
    (home.project / "Procfile").write_text("web: sleep 5\n\nbroken line\n")
    done = safe("init", "--json").check()
    answer = done.json()
    assert done.err == ""
    assert (answer["v"], answer["targets"], answer["source"]) == (1, ["web"], "Procfile")
    assert answer["file"] == str(home.project / "safe.toml")
    (note,) = answer["untranslated"]
    assert (note["file"], note["line"], note["text"]) == ("Procfile", 3, "broken line")
    assert "foreman and honcho pass over it" in note["reason"]
    assert "# Procfile:3" in " ".join((home.project / "safe.toml").read_text().split())


def test_what_lies_here_is_found_and_the_rest_is_named(home: Home, safe: Safe) -> None:
    (home.project / "a.service").write_text("[Service]\nExecStart=/bin/sleep 5\n")
    assert safe("init", "--print", "--json").check().json()["source"] == "a.service"
    (home.project / "b.service").write_text("[Service]\nExecStart=/bin/sleep 5\n")
    several = safe("init", "--print").check()
    assert "here too: a.service b.service" in several.err
    assert "[targets.app]" in several.out
    (home.project / "etc").mkdir()
    (home.project / "etc" / "supervisord.conf").write_text("[program:x]\ncommand=sleep 5\n")
    assert safe("init", "--print", "--json").check().json()["source"] == "etc/supervisord.conf"
    (home.project / "Procfile").write_text("web: sleep 5\n")
    first = safe("init").check()
    assert "from Procfile" in first.out
    assert "here too: etc/supervisord.conf a.service b.service" in first.err


def test_a_template_unit_is_translated_for_the_instance_that_is_named(home: Home, safe: Safe) -> None:
    (home.project / "q@.service").write_text("[Service]\nExecStart=/bin/sleep %i\n")
    answer = safe("init", "--from", "q@5.service", "--print", "--json").check().json()
    assert answer["targets"] == ["q@5"]
    assert 'command = ["/bin/sleep", "5"]' in answer["text"]
    refused = safe("init", "--from", "q@.service").check(78)
    assert "q@.service:2: ExecStart=/bin/sleep %i: %i needs an instance" in refused.err


def test_config_says_where_and_paths_are_told_from_there(home: Home, safe: Safe) -> None:
    source = home.project / "app"
    source.mkdir()
    (source / "Procfile").write_text("web: sleep 5\n")
    (source / ".env").write_text("A=1\n")
    safe("init", "--from", "app/Procfile", "--config", "sub.toml").check()
    text = (home.project / "sub.toml").read_text()
    assert 'cwd = "app"' in text
    assert 'env_file = "app/.env"' in text
    elsewhere = home.path / "x.toml"
    safe("init", "--from", "app/Procfile", "--config", str(elsewhere)).check()
    assert f'cwd = "{source}"' in elsewhere.read_text()


def test_what_others_may_not_read_is_not_shown_to_them(home: Home, safe: Safe) -> None:
    source = home.project / "supervisord.conf"
    source.write_text('[program:x]\ncommand=sleep 5\nenvironment=PASSWORD="hidden"\n[inet_http_server]\npassword=123\n')
    source.chmod(0o600)
    done = safe("init").check()
    assert "123" not in done.err
    file = home.project / "safe.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert 'env.PASSWORD = "hidden"' in file.read_text()


def test_the_umask_is_honoured(home: Home) -> None:
    line = f"umask 077; exec {sys.executable} -E -s -S {CLI[-1]} init"
    subprocess.run(["/bin/sh", "-c", line], check=True, timeout=30, stdout=subprocess.DEVNULL)
    assert stat.S_IMODE((home.project / "safe.toml").stat().st_mode) == 0o600


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gone", None, "there is no such file"),
        ("notes.txt", "Dear diary,\nthis is no: program\nat all\n", "is no Procfile, supervisord.conf or systemd unit"),
        ("Procfile", "# nothing\n", "describes nothing that safesh could start"),
        ("Procfile", "web:\n", "describes nothing that safesh could start"),
        ("empty.service", "[Unit]\nDescription=x\n", "describes nothing that safesh could start"),
        ("supervisord.conf", "[supervisord]\n", "describes nothing that safesh could start"),
        ("Procfile", b"web: \xff\n", "byte 0xff is not UTF-8"),
    ],
    ids=["gone", "diary", "comments", "no command", "no ExecStart", "no program", "bytes"],
)
def test_a_source_that_cannot_serve_is_told_with_78_and_nothing_is_written(
    home: Home, safe: Safe, name: str, text: str | bytes | None, message: str
) -> None:
    if text is not None:
        (home.project / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused = safe("init", "--from", name).check(78)
    assert message in refused.err
    assert name in refused.err
    assert not (home.project / "safe.toml").exists()


def test_a_source_that_everybody_may_write_is_not_trusted(home: Home, safe: Safe) -> None:
    (home.project / "Procfile").write_text("web: sleep 5\n")
    (home.project / "Procfile").chmod(0o666)
    refused = safe("init").check(78)
    assert "can be written by everybody" in refused.err
    assert "chmod o-w" in refused.err


def test_a_folder_in_the_way_or_gone_is_one_clear_line(home: Home, safe: Safe) -> None:
    (home.project / "safe.toml").mkdir()
    refused = safe("init", "--force").check(2)
    assert "safe.toml: cannot be written: is a directory" in refused.err
    missing = safe("init", "--config", "no/such/safe.toml").check(2)
    assert "no such file or directory" in missing.err
    assert Path(home.project / "no").exists() is False


def test_from_a_folder_or_an_empty_name_is_refused(home: Home, safe: Safe) -> None:
    assert "is a folder" in safe("init", "--from", ".").check(78).err
    assert "--from is empty" in safe("init", "--from=").check(2).err
