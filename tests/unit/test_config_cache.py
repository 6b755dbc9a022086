"""The cached result of a safe.toml: lean, equal to the fresh one, never trusted when odd, never in the way."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import safesh
from safesh import _targets, config
from safesh.errors import ConfigError

SOURCE = str(Path(safesh.__file__).parents[1])
TEXT = '[targets.x]\ncommand = "sleep 1"\nenv.SECRET = "s"\nstop.grace = 0.1\n[targets.y]\ncommand = ["é", "b"]\n'
# Files this young are not cached, see config._keep; older ones are made by the test, not waited for.
HOUR_AGO = 3600


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A safe.toml, and a clock an hour ahead, so that it is old enough to be cached."""
    monkeypatch.setenv("SAFESH_HOME", str(tmp_path / "state"))
    path = tmp_path / "safe.toml"
    path.write_text(TEXT, encoding="utf-8")
    path.chmod(0o644)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + HOUR_AGO * 10**9)
    return path


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time a file was really parsed."""
    seen: list[str] = []
    real = _targets.build

    def build(text: str, path: str) -> config.Config:
        seen.append(path)
        return real(text, path)

    monkeypatch.setattr(_targets, "build", build)
    return seen


def cache_file(toml: Path) -> Path:
    return Path(config._cache_file(str(toml)))


def test_a_cached_load_equals_the_fresh_one_and_parses_nothing(toml: Path, builds: list[str]) -> None:
    cold = config.load(str(toml))
    warm = config.load(str(toml))
    assert cold == warm
    assert list(cold.targets) == list(warm.targets)
    assert warm.to_dict() == cold.to_dict()
    assert len(builds) == 1


def test_the_cache_is_private(toml: Path) -> None:
    old = os.umask(0)
    try:
        config.load(str(toml))
    finally:
        os.umask(old)
    file = cache_file(toml)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert os.listdir(file.parent) == [file.name]


def same_size(toml: Path) -> None:
    toml.write_text(TEXT.replace("sleep 1", "sleep 2"), encoding="utf-8")


def same_size_and_time(toml: Path) -> None:
    before = toml.stat()
    same_size(toml)
    os.utime(toml, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(toml: Path) -> None:
    other = toml.with_name("other")
    shutil.copy2(toml, other)
    os.replace(other, toml)


@pytest.mark.parametrize("change", [same_size, same_size_and_time, replaced, lambda toml: toml.chmod(0o640)])
def test_a_changed_file_is_parsed_again(toml: Path, builds: list[str], change: object) -> None:
    config.load(str(toml))
    assert callable(change)
    change(toml)
    again = config.load(str(toml))
    assert len(builds) == 2
    assert again == _targets.build(toml.read_text(encoding="utf-8"), str(toml))


def test_a_file_opened_to_others_is_refused_although_cached(toml: Path) -> None:
    config.load(str(toml))
    toml.chmod(0o666)
    with pytest.raises(ConfigError, match="written by everybody"):
        config.load(str(toml))


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setenv("HOME", "/elsewhere"),
        lambda patch: patch.setattr(config, "_SCHEMA", config._SCHEMA + 1),
        lambda patch: patch.setattr(config, "__version__", "99"),
        lambda patch: patch.setattr(os, "geteuid", lambda: os.getuid() + 1),
    ],
    ids=["home", "schema", "version", "user"],
)
def test_another_home_version_or_user_does_not_get_it(toml: Path, change: object) -> None:
    config.load(str(toml))
    stamp = config._stamp(str(toml), toml.stat())
    assert config._cached(str(toml), stamp)
    with pytest.MonkeyPatch.context() as patch:
        assert callable(change)
        change(patch)
        assert config._cached(str(toml), config._stamp(str(toml), toml.stat())) is None


def test_a_damaged_cache_is_passed_over_and_made_again(toml: Path, builds: list[str]) -> None:
    fresh = config.load(str(toml))
    file = cache_file(toml)
    good = file.read_bytes()
    damages = [good[:cut] for cut in range(0, len(good), 37)]
    damages += [good.replace(b"sleep", b"slept"), b"[]", b"null\n{}", b"\xff\xfe", b"[" * 100_000, good + b" "]
    for number, damage in enumerate(damages, start=2):
        file.write_bytes(damage)
        assert config.load(str(toml)) == fresh
        assert len(builds) == number
        assert file.read_bytes() == good


def test_a_body_of_another_shape_is_passed_over(toml: Path) -> None:
    from hashlib import blake2b

    from safesh import wire

    config.load(str(toml))
    stamp = config._stamp(str(toml), toml.stat())
    for body in ("{}", "[]", "3", '{"path": "a", "project": "b", "targets": []}', '{"targets": {"x": {}}}'):
        cache_file(toml).write_text(
            wire.dumps([blake2b(body.encode(), digest_size=6).hexdigest(), stamp]) + "\n" + body, encoding="utf-8"
        )
        assert config._cached(str(toml), stamp) is None


def test_a_cache_behind_a_symlink_is_not_read(toml: Path, builds: list[str]) -> None:
    config.load(str(toml))
    file = cache_file(toml)
    file.rename(file.with_name("moved"))
    file.symlink_to("moved")
    config.load(str(toml))
    assert len(builds) == 2
    assert not file.is_symlink()  # replaced by one of our own


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_a_cache_of_another_user_is_not_read(toml: Path, builds: list[str]) -> None:
    config.load(str(toml))
    os.chown(cache_file(toml), 1, 1)
    config.load(str(toml))
    assert len(builds) == 2


def test_two_names_that_end_alike_take_turns(tmp_path: Path, toml: Path) -> None:
    long = "x" * 120
    found = []
    for folder in ("a", "b"):
        path = tmp_path / folder / long / long / "safe.toml"
        path.parent.mkdir(parents=True)
        path.write_text(TEXT.replace("sleep 1", f"echo {folder}"), encoding="utf-8")
        path.chmod(0o644)
        found.append(path)
    assert cache_file(found[0]) == cache_file(found[1])
    for _ in range(2):
        for path, folder in zip(found, "ab", strict=True):
            assert config.load(str(path)).targets["x"].command == ["echo", folder]


def test_a_file_changed_just_now_is_not_cached(toml: Path, monkeypatch: pytest.MonkeyPatch, builds: list[str]) -> None:
    changed = toml.stat().st_ctime_ns
    for age in (0, 10_000_000, -HOUR_AGO * 10**9):  # the last: a clock set back
        monkeypatch.setattr(time, "time_ns", lambda age=age: changed + age)
        config.load(str(toml))
        assert not cache_file(toml).exists()
    monkeypatch.setattr(time, "time_ns", lambda: changed + 30_000_000)
    config.load(str(toml))
    assert cache_file(toml).exists()
    assert len(builds) == 4


def test_a_file_changed_while_it_was_read_is_not_cached(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _targets.build

    def build(text: str, path: str) -> config.Config:
        toml.write_text(TEXT + "\n# more\n", encoding="utf-8")
        return real(text, path)

    monkeypatch.setattr(_targets, "build", build)
    assert config.load(str(toml)).targets["x"].command == ["sleep", "1"]
    assert not cache_file(toml).exists()


def test_a_state_folder_that_cannot_be_used_does_not_stop_a_load(
    toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for home in ("/proc/nowhere", str(tmp_path / "file"), str(tmp_path / "file" / "below"), "/dev/null"):
        monkeypatch.setenv("SAFESH_HOME", home)
        assert list(config.load(str(toml)).targets) == ["x", "y"]


def test_a_full_disk_does_not_stop_a_load_and_leaves_no_half_file(toml: Path) -> None:
    # RLIMIT_FSIZE makes write(2) fail as a full disk does; Python ignores the SIGXFSZ that goes with it.
    code = (
        "import resource, sys, time; real = time.time_ns; time.time_ns = lambda: real() + 3600 * 10**9\n"
        "from safesh import config; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        f"config.load({str(toml)!r})"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE}, check=True, timeout=60)
    assert os.listdir(cache_file(toml).parent) == []


@pytest.mark.parametrize("trap", ["symlink", "file", "open"])
def test_a_cache_folder_that_is_not_private_is_not_written(toml: Path, tmp_path: Path, trap: str) -> None:
    folder = cache_file(toml).parent
    folder.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if trap == "symlink":
        folder.symlink_to(elsewhere)
    elif trap == "file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert list(config.load(str(toml)).targets) == ["x", "y"]
    assert not cache_file(toml).exists()
    assert os.listdir(elsewhere) == []


def test_only_the_newest_results_are_kept(toml: Path) -> None:
    folder = cache_file(toml).parent
    folder.mkdir(parents=True, mode=0o700)
    for number in range(config._KEPT + 10):
        old = folder / f"{number}.json"
        old.touch()
        os.utime(old, (number, number))
    config.load(str(toml))
    assert len(os.listdir(folder)) == config._KEPT
    assert cache_file(toml).exists()
    assert not (folder / "0.json").exists()


def test_a_file_that_cannot_be_encoded_in_a_name_is_loaded(toml: Path) -> None:
    odd = os.fsdecode(os.fsencode(toml.parent) + b"/\xff.toml")
    shutil.copyfile(toml, odd)
    assert config.load(odd) == config.load(odd)


def lean(code: str) -> list[str]:
    """The modules that a process without site has loaded after ``code``."""
    script = f"import sys; sys.path.insert(0, {SOURCE!r})\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


HEAVY = {"msgspec", "tomllib", "re", "enum", "typing", "json", "signal", "dataclasses", "contextlib", "functools"}
HEAVY |= {"collections", "subprocess", "logging", "difflib", "shlex", "site", "safesh._schema", "safesh._targets"}


def test_a_warm_load_imports_none_of_the_heavy_modules(toml: Path) -> None:
    (toml.parent / "x.env").write_text("A=1\n", encoding="utf-8")
    (toml.parent / "x.env").chmod(0o644)
    toml.write_text(TEXT.replace("[targets.y]", 'env_file = "x.env"\n[targets.y]'), encoding="utf-8")
    config.load(str(toml))
    assert cache_file(toml).exists()
    loaded = lean(f"from safesh import config; config.resolve(config.load({str(toml)!r}), 'x'); config.find()")
    assert "safesh.config" in loaded
    assert not HEAVY.intersection(loaded)


def test_a_cold_load_finds_its_library_without_site(toml: Path) -> None:
    assert {"msgspec", "safesh._schema"} <= set(lean(f"from safesh import config; config.load({str(toml)!r})"))


def test_a_damaged_cache_is_passed_over_without_the_json_module_too(toml: Path) -> None:
    config.load(str(toml))
    good = cache_file(toml).read_bytes()
    for damage in (good[:20], good[:-5], b"nonsense", b'["a'):
        cache_file(toml).write_bytes(damage)
        lean(f"from safesh import config; assert config.load({str(toml)!r}).targets['x'].command == ['sleep', '1']")


def test_a_missing_library_is_told(toml: Path) -> None:
    code = (
        "from safesh import config, errors, vendor\nvendor.add_site_packages = lambda: None\n"
        f"try: config.load({str(toml)!r})\n"
        "except errors.SafeshError as error: assert 'msgspec' in error.message and 'pip' in error.hint\n"
        "else: raise SystemExit(1)"
    )
    lean(code)
