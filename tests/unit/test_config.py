"""safe.toml: what it may say, and how each mistake in it is told."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safesh import _schema, _targets, config, model
from safesh.clock import parse_duration, parse_size
from safesh.core import signals
from safesh.errors import ConfigError, SafeshError, UsageError

Write = Callable[..., str]
ROOT = Path(__file__).resolve().parents[2]
FULL = """
project = "arm"
[defaults]
restart = "always"
env = { A = "default", B = "default" }
stop = { signal = "INT", grace = 3 }
[targets.headless]
command = ["python3", "robot.py", "--headless"]
cwd = "sub"
env = { B = "own", N = 3, F = 0.5, T = true }
env_file = "robot.env"
instance = "robot"
match = "*python3 *robot.py --headless"
restart = "on-failure"
backoff = { initial = "0.5s", factor = 3, max = "1m", jitter = 0 }
start_limit = { count = 7, window = "1h30m" }
stop = { scope = "tree", grace = "1.5s" }
signals = { HUP = "usr1", SIGQUIT = "", "12" = 0 }
log = { size = "10M", keep = 0, compress = true, timestamps = true }
lock_file = "~/.robot.lock"
pid_file = "run/robot.pid"
[targets.gui]
command = "python3 robot.py --title 'my robot'"
instance = "robot"
[targets.script]
command = "sleep 1 | cat"
shell = true
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes safe.toml into an empty working directory and gives its name."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SAFESH_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("SAFESH_CONFIG", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")

    def write(text: str | bytes, name: str = "safe.toml") -> str:
        path = folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o644)
        return str(path)

    return write


def refused(write: Write, text: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.load(write(text))
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return caught.value


def target(keys: str) -> str:
    return f'[targets.x]\ncommand = ["true"]\n{keys}\n'


# What a good file says


def test_every_key_reaches_the_spec(write: Write) -> None:
    path = write(FULL)
    folder = os.path.dirname(path)
    loaded = config.load(path)
    assert (loaded.path, loaded.project, list(loaded.targets)) == (path, "arm", ["headless", "gui", "script"])
    assert loaded.targets["headless"] == model.TargetSpec(
        name="headless",
        instance="robot",
        project="arm",
        command=["python3", "robot.py", "--headless"],
        cwd=f"{folder}/sub",
        config=path,
        env={"A": "default", "B": "own", "N": "3", "F": "0.5", "T": "true"},
        env_file=f"{folder}/robot.env",
        match="*python3 *robot.py --headless",
        restart="on-failure",
        backoff=model.Backoff(initial=0.5, factor=3.0, max=60.0, jitter=0.0),
        start_limit=model.StartLimit(count=7, window=5400.0),
        stop=model.StopPolicy(signal="SIGINT", scope="tree", grace=1.5),
        signals={"SIGHUP": "SIGUSR1", "SIGQUIT": "", "SIGUSR2": ""},
        log=model.LogPolicy(size=10 << 20, keep=0, compress=True, timestamps=True),
        lock_file="/home/somebody/.robot.lock",
        pid_file=f"{folder}/run/robot.pid",
    )


def test_a_string_is_split_as_a_shell_would_and_run_without_one(write: Write) -> None:
    loaded = config.load(write(FULL))
    assert loaded.targets["gui"].command == ["python3", "robot.py", "--title", "my robot"]
    assert loaded.targets["script"].command == ["/bin/sh", "-c", "sleep 1 | cat"]


def test_a_target_inherits_the_defaults_table_key_by_key(write: Write) -> None:
    gui = config.load(write(FULL)).targets["gui"]
    assert gui.restart == "always"
    assert gui.env == {"A": "default", "B": "default"}
    assert gui.stop == model.StopPolicy(signal="SIGINT", scope="main", grace=3.0)


def test_targets_of_one_instance_share_the_files_that_one_of_them_names(write: Write) -> None:
    targets = config.load(write(FULL)).targets
    assert targets["gui"].lock_file == targets["headless"].lock_file != ""
    assert targets["gui"].pid_file == targets["headless"].pid_file
    assert targets["script"].lock_file == ""


def test_what_is_left_out_has_the_models_defaults(write: Write) -> None:
    path = write(target(""))
    plain = model.TargetSpec(
        name="x", instance="x", project="work", command=["true"], cwd=os.path.dirname(path), config=path
    )
    assert config.load(path).targets["x"] == plain


@pytest.mark.parametrize(
    ("folder", "project"),
    [("robot", "robot"), ("my robot", "my-robot"), (".hidden", "hidden"), ("--", "default"), ("ä" * 60, "ä" * 40)],
)
def test_the_project_is_named_after_the_folder(folder: str, project: str) -> None:
    assert config.project_of(f"/srv/{folder}/safe.toml") == project


def test_the_root_folder_gives_the_default_project() -> None:
    assert config.project_of("/safe.toml") == "default"


def test_a_byte_order_mark_and_windows_line_ends_are_read(write: Write) -> None:
    assert config.load(write(b"\xef\xbb\xbf" + target("").replace("\n", "\r\n").encode())).targets["x"].name == "x"


def test_a_longer_first_wait_raises_a_ceiling_that_was_left_out(write: Write) -> None:
    assert config.load(write(target('backoff.initial = "5m"'))).targets["x"].backoff.max == 300.0


def test_signal_names_are_those_of_the_signals_room() -> None:
    for spelled in [*signals.NUMBERS, *map(str, signals.NAMES), "RTMIN+3", "sigterm", "hup"]:
        assert _schema.parse_signal(spelled, "") == signals.name(signals.number(spelled))


# What a bad file is told

BAD = [
    ("targets.x.stop.grce", "unknown key", "stop.grce = 1"),
    ("targets.x.comand", "unknown key", 'comand = ["a"]'),
    ("targets.x.grace", "unknown key", "grace = 1"),
    ("targets.x.ready", "names no probe", 'ready = { within = "3s" }'),
    ("targets.x.ready.log", "two kinds of probe, tcp and log", 'ready = { tcp = 80, log = "x" }'),
    ("targets.x.ready.http", "'ftp:/x' is no http URL", 'ready = { http = "ftp:/x" }'),
    ("targets.x.ready.status", "no list of HTTP statuses", 'ready = { http = "http://h/", status = 700 }'),
    ("targets.x.ready.body", "no regular expression", 'ready = { http = "http://h/", body = "(" }'),
    ("targets.x.ready.tcp", "no HOST:PORT", 'ready = { tcp = "db" }'),
    ("targets.x.health.log", "unknown key", 'health = { log = "x" }'),
    ("targets.x.health.body", "means nothing without http", 'health = { tcp = 80, body = "x" }'),
    ("targets.x.health.interval", "is 0", "health = { tcp = 80, interval = 0 }"),
    ("targets.x.health.retries", "1 to 1000", "health = { tcp = 80, retries = 0 }"),
    ("targets.x.limits.memory", "leaves room for nothing", "limits = { memory = 0 }"),
    ("targets.x.limits.cpu", "has no most", 'limits = { cpu = { for = "3s" } }'),
    ("targets.x.limits.cpu.action", '"warn", "stop" or "restart"', 'limits = { cpu = { most = 1, action = "x" } }'),
    ("targets.x.limits.cpu.most", "expected a number, got a string", 'limits = { cpu = { most = "a" } }'),
    ("targets.x.notify[0]", "tells nobody", "notify = [{}]"),
    ("targets.x.notify[0].on[0]", "'faild' is no event", 'notify = [{ on = ["faild"], command = "x" }]'),
    ("targets.x.depends_on[0]", "'y' is no target", 'depends_on = ["y"]'),
    ("targets.x.depends_on[0]", "shares the instance", 'depends_on = ["x"]'),
    ("targets.x.tty", "expected true or false", "tty = 1"),
    ("targets.x.ready.log", "cannot be seen with tty", 'tty = true\nready = { log = "up" }'),
    ('targets.x."a b"', "unknown key", '"a b" = 1'),
    ("targets.x.cwd", "expected a path, in quotes, got a whole number: 3", "cwd = 3"),
    ("targets.x.cwd", "is empty", 'cwd = ""'),
    ("targets.x.shell", "expected true or false, got a string: 'yes'", 'shell = "yes"'),
    ("targets.x.restart", '"no", "on-failure" or "always", got a string: \'allways\'', 'restart = "allways"'),
    ("targets.x.restart", "got a boolean", "restart = false"),
    ("targets.x.stop", "expected a table, got a string", 'stop = "SIGTERM"'),
    ("targets.x.stop.signal", "'SIGTREM' is not a signal", 'stop.signal = "SIGTREM"'),
    ("targets.x.stop.signal", "0 is not a signal", "stop.signal = 0"),
    ("targets.x.stop.signal", "got a boolean", "stop.signal = true"),
    ("targets.x.stop.scope", '"main" or "tree"', 'stop.scope = "all"'),
    ("targets.x.stop.grace", "'5 parsecs' is not a duration", 'stop.grace = "5 parsecs"'),
    ("targets.x.stop.grace", "-1 is not a duration", "stop.grace = -1"),
    ("targets.x.stop.grace", "nan is not a duration", "stop.grace = nan"),
    ("targets.x.stop.grace", "inf is not a duration", "stop.grace = inf"),
    ("targets.x.stop.grace", "got a boolean: True", "stop.grace = true"),
    ("targets.x.stop.grace", "got a date or time", "stop.grace = 2026-01-01"),
    ("targets.x.backoff.factor", "a number, 1 to 1000", "backoff.factor = 0.5"),
    ("targets.x.backoff.factor", "a number, 1 to 1000", "backoff.factor = inf"),
    ("targets.x.backoff.jitter", "a number, 0 to 1", "backoff.jitter = 1.5"),
    ("targets.x.backoff.max", "is less than initial", "backoff = { initial = 9, max = 5 }"),
    ("targets.x.start_limit.count", "a whole number", "start_limit.count = -1"),
    ("targets.x.start_limit.count", "a whole number", "start_limit.count = 1.5"),
    ("targets.x.start_limit.count", "got a boolean", "start_limit.count = true"),
    ("targets.x.log.size", "'10X' is not a size", 'log.size = "10X"'),
    ("targets.x.log.keep", "got a string", 'log.keep = "5"'),
    ("targets.x.env", "expected a table of variables", 'env = "A=1"'),
    ("targets.x.env.A", "got a list", "env.A = [1]"),
    ('targets.x.env."A=B"', "cannot name a variable", 'env."A=B" = 1'),
    ("targets.x.env.A", "NUL", 'env.A = "\\u0000"'),
    ("targets.x.env.SAFESH_RUN_ID", "only the supervisor", 'env.SAFESH_RUN_ID = "x"'),
    ("targets.x.signals.HUPP", "'HUPP' is not a signal", 'signals.HUPP = "TERM"'),
    ("targets.x.signals.HUP", "'nix' is not a signal", 'signals.HUP = "nix"'),
    ("targets.x.signals.HUP", "got a boolean", "signals.HUP = false"),
    ("targets.x.signals.KILL", "cannot be rewritten", 'signals.KILL = "TERM"'),
    ("targets.x.signals.SIGHUP", "rewritten twice", 'signals = { HUP = "TERM", SIGHUP = "INT" }'),
    ("targets.x.instance", "cannot name", 'instance = "a/b"'),
    ("targets.x.instance", "cannot name", 'instance = ".."'),
    ("targets.x.match", "too many processes", 'match = "* **"'),
    ("targets.x.lock_file", "NUL", 'lock_file = "a\\u0000"'),
    ("targets.x.pid_file", "is also the lock_file of targets.x", 'lock_file = "a"\npid_file = "./a"'),
    ("defaults.stop.grce", "unknown key", "[defaults]\nstop.grce = 1"),
    ("defaults.log", "expected a table, got a list", "[defaults]\nlog = []"),
]


@pytest.mark.parametrize(("place", "message", "keys"), BAD, ids=[f"{p}:{k}" for p, _, k in BAD])
def test_a_mistake_is_told_with_its_exact_place(write: Write, place: str, message: str, keys: str) -> None:
    error = refused(write, target(keys))
    assert error.place == f"safe.toml: {place}"
    assert message in error.message


COMMANDS = [
    ("", "", "has no command"),
    ("command = 3", ".command", "expected a list of strings, or one string, got a whole number"),
    ("command = []", ".command", "names no program"),
    ('command = [""]', ".command", "names no program"),
    ('command = ""', ".command", "is empty"),
    ('command = "  "', ".command", "is empty"),
    ("command = \"''\"", ".command", "names no program"),
    ('command = ["a", 3]', ".command[1]", "expected a string, got a whole number"),
    ('command = ["a", ["b"]]', ".command[1]", "expected a string, got a list"),
    ('command = ["a", "\\u0000"]', ".command[1]", "NUL"),
    ('command = "a \\u0000"', ".command", "NUL"),
    ('command = "a \'b"', ".command", "no closing quotation"),
    ('command = "a && b"', ".command", "'&&' means something to a shell only"),
    ('command = ["a"]\nshell = true', ".command", "expected a string"),
]


@pytest.mark.parametrize(("keys", "place", "message"), COMMANDS)
def test_a_command_that_cannot_be_run_is_refused(write: Write, keys: str, place: str, message: str) -> None:
    error = refused(write, f"[targets.x]\n{keys}")
    assert error.place == f"safe.toml: targets.x{place}"
    assert message in error.message


FILES = [
    ("safe.toml", "no targets", ""),
    ("safe.toml", "no targets", 'project = "x"'),
    ("safe.toml: targets", "got none", "[targets]"),
    ("safe.toml: targets", "got a whole number", "targets = 3"),
    ("safe.toml: targets.x", "expected a table", "targets.x = 3"),
    ("safe.toml: target", "unknown key", "[target.x]"),
    ("safe.toml: project", "cannot name a project", 'project = "a/b"' + "\n" + target("")),
    ("safe.toml: project", "got a whole number", "project = 3\n" + target("")),
    ('safe.toml: targets."a b"', "cannot name a target", '[targets."a b"]\ncommand = "true"'),
    ('safe.toml: targets.""', "cannot name a target", '[targets.""]\ncommand = "true"'),
    ("safe.toml: defaults", "expected a table", "defaults = 1\n" + target("")),
    ("safe.toml:2:4", "not TOML", "[targets.x]\nabc"),
    ("safe.toml:3:9", "not TOML", target('cwd = "a').rstrip("\n")),
    ("safe.toml:2", "byte 0xff is not UTF-8", b"[targets.x]\nabc = '\xff'"),
    ("safe.toml", "nested too deeply", "a = " + "[" * 5000),
    ("safe.toml", "cannot be read", "a = " + "9" * 5000),
    ("safe.toml", "larger than 1 MiB", "#" * ((1 << 20) + 1)),
]


@pytest.mark.parametrize(("place", "message", "text"), FILES, ids=[f"{p}-{m}" for p, m, _ in FILES])
def test_a_file_that_is_no_configuration_is_refused(write: Write, place: str, message: str, text: str | bytes) -> None:
    error = refused(write, text)
    assert message in error.message
    assert error.place == place


def test_a_huge_number_is_told_without_printing_it(write: Write) -> None:
    huge = "0x" + "f" * 5000
    for key in (f"stop.grace = {huge}", f"log.size = {huge}", f"env.A = {huge}", f"start_limit.count = {huge}"):
        assert len(str(refused(write, target(key)))) < 200


@pytest.mark.parametrize(
    ("keys", "suggestion"),
    [
        ("stop.grce = 1", '"grace"'),
        ("restrat = 1", '"restart"'),
        ("start-limit = {}", '"start_limit"'),
        ("grace = 1", '"stop.grace"'),
        ('stop.signal = "SIGTREM"', '"SIGTERM"'),
    ],
)
def test_the_closest_valid_word_is_offered(write: Write, keys: str, suggestion: str) -> None:
    assert f"did you mean {suggestion}?" in refused(write, target(keys)).hint


def test_the_first_problem_in_the_file_is_the_one_told(write: Write) -> None:
    text = '[targets.b]\ncommand = "true"\ncwd = 1\nshel = true\n[targets.a]\ncommand = 3\n'
    assert refused(write, text).place == "safe.toml: targets.b.cwd"


def test_a_file_outside_the_working_directory_is_named_in_full(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(target("cwd = 1"))
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert caught.value.place == f"{path}: targets.x.cwd"


def two(first: str, second: str) -> str:
    return f'[targets.a]\ncommand = "true"\n{first}\n[targets.b]\ncommand = "true"\n{second}\n'


def test_one_instance_cannot_have_two_locks(write: Write) -> None:
    text = two('instance = "r"\nlock_file = "one"', 'instance = "r"\nlock_file = "two"')
    error = refused(write, text)
    assert error.place == "safe.toml: targets.b.lock_file"
    assert "targets.a" in error.message
    assert "'r'" in error.message


def test_two_instances_cannot_have_one_lock(write: Write) -> None:
    error = refused(write, two('lock_file = "one"', 'lock_file = "./one"'))
    assert error.place == "safe.toml: targets.b.lock_file"
    assert "is also the lock_file of targets.a" in error.message


# Which files are trusted


def test_a_file_that_others_can_write_is_refused(write: Write) -> None:
    path = write(target(""))
    os.chmod(path, 0o646)
    with pytest.raises(ConfigError, match="written by everybody") as caught:
        config.load(path)
    assert caught.value.hint == f"chmod o-w {path}"


def test_a_folder_a_pipe_and_nothing_are_told_apart(write: Write) -> None:
    folder = os.path.dirname(write(target("")))
    os.mkdir(f"{folder}/d")
    os.mkfifo(f"{folder}/p")
    os.symlink("nowhere", f"{folder}/l")
    for name, message in (
        ("d", "is a folder"),
        ("p", "is not a regular file"),
        ("l", "is a symlink to nothing"),
        ("n", "there is no such file"),
        ("safe.toml/x", "Not a directory"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            config.load(f"{folder}/{name}")
        assert name in caught.value.place


def as_nobody(act: Callable[[], Any]) -> str:
    """What ``act`` raises in a child without root's rights; the child is gone when this returns."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            act()
            os.write(writing, b"nothing")
        except BaseException as error:  # whatever it was, the parent judges it
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    try:
        os.close(writing)
        return os.read(reading, 4096).decode()
    finally:
        os.close(reading)
        os.waitpid(child, 0)


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def public(write: Write, tmp_path: Path) -> str:
    """The working directory, opened to a child that is nobody."""
    for folder in (Path.cwd(), tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:  # pytest's own folders; the system's are open
            folder.chmod(0o711)
    return os.getcwd()


@root_only
def test_an_unreadable_file_is_told(write: Write, public: str) -> None:
    path = write(target(""))
    os.chmod(path, 0o600)
    assert as_nobody(lambda: config.load(path)) == "ConfigError: safe.toml: cannot be read: Permission denied"


@root_only
def test_a_file_of_another_user_is_refused(write: Write, public: str) -> None:
    path = write(target(""))
    os.chown(path, 1, 1)
    assert "belongs to user 1, neither to you (65534) nor to root" in as_nobody(lambda: config.load(path))


@root_only
def test_root_runs_a_users_checkout_but_not_what_a_user_left_in_a_public_folder(write: Write, public: str) -> None:
    path = write(target(""))
    os.chown(path, 1, 1)
    assert list(config.load(path).targets) == ["x"]
    os.chmod(public, 0o1777)
    os.utime(path)
    with pytest.raises(ConfigError, match="belongs to user 1"):
        config.load(path)


# Finding it


def test_it_is_found_by_walking_up(write: Write) -> None:
    path = write(target(""))
    below = Path(path).parent / "a" / "b"
    below.mkdir(parents=True)
    assert config.find() == path
    assert config.find(str(below)) == path
    assert config.find("a/b") == path


def test_a_named_file_wins_over_the_variable_and_that_over_the_walk(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(target(""))
    monkeypatch.setenv("SAFESH_CONFIG", "other.toml")
    folder = os.path.dirname(path)
    assert config.find() == f"{folder}/other.toml"
    assert config.find(explicit="third.toml") == f"{folder}/third.toml"
    assert config.find(explicit="~/it.toml") == "/home/somebody/it.toml"
    monkeypatch.setenv("SAFESH_CONFIG", "")
    assert config.find() == path
    with pytest.raises(UsageError, match="--config is empty"):
        config.find(explicit="")


def test_nothing_is_found_where_there_is_nothing() -> None:
    assert config.find("/proc/self") is None


def test_a_removed_working_directory_is_told(write: Write) -> None:
    gone = Path.cwd() / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    for act in (config.find, lambda: config.load("x"), lambda: config.ad_hoc("n", ["true"])):
        with pytest.raises(UsageError, match="working directory"):
            act()


# A target ready to start


def test_the_env_file_lies_under_env_and_is_read_at_every_start(write: Write) -> None:
    write("A=file\nB=file\n", "x.env")
    loaded = config.load(write(target('env_file = "x.env"\nenv.B = "table"')))
    assert loaded.targets["x"].env == {"B": "table"}
    assert config.resolve(loaded, "x").env == {"A": "file", "B": "table"}
    write("A=changed\n", "x.env")
    assert config.resolve(loaded, "x").env == {"A": "changed", "B": "table"}
    assert loaded.targets["x"].env == {"B": "table"}


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no such file"), ("SAFESH_RUN_ID=1", "only the supervisor"), ("A", "KEY=VALUE")]
)
def test_a_bad_env_file_is_told_at_the_start(write: Write, text: str | None, message: str) -> None:
    if text is not None:
        write(text, "x.env")
    loaded = config.load(write(target('env_file = "x.env"')))
    with pytest.raises(ConfigError, match=message) as caught:
        config.resolve(loaded, "x")
    assert ".env" in caught.value.place


def test_a_working_directory_that_cannot_be_entered_is_told(write: Write) -> None:
    write("", "file")
    for cwd, message in (("missing", "No such file"), ("file", "is not a folder")):
        loaded = config.load(write(target(f'cwd = "{cwd}"')))
        with pytest.raises(ConfigError, match=message) as caught:
            config.resolve(loaded, "x")
        assert caught.value.place == "safe.toml: targets.x.cwd"


def test_an_unknown_target_is_told_with_the_closest(write: Write) -> None:
    loaded = config.load(write(FULL))
    with pytest.raises(UsageError, match=r"no target 'headles'") as caught:
        config.resolve(loaded, "headles")
    assert caught.value.hint == "did you mean headless? targets: headless, gui, script"
    assert caught.value.exit_code == 2


def test_a_run_without_a_file_is_a_target_of_its_own(write: Write) -> None:
    spec = config.ad_hoc("nightly", ["sync", "--all"])
    assert spec == model.TargetSpec(
        name="nightly", instance="nightly", project="default", command=["sync", "--all"], cwd=os.getcwd()
    )


def test_a_run_beside_a_file_belongs_to_its_project_and_shares_its_instances(write: Write) -> None:
    loaded = config.load(write(FULL))
    assert config.ad_hoc("nightly", ["true"], config=loaded).project == "arm"
    assert config.ad_hoc("robot", ["true"], config=loaded).lock_file == loaded.targets["gui"].lock_file
    with pytest.raises(UsageError, match=r"headless is a target of safe\.toml"):
        config.ad_hoc("headless", ["true"], config=loaded)


@pytest.mark.parametrize(("name", "command"), [("a/b", ["true"]), ("a", []), ("a", [""]), ("a", ["\0"])])
def test_a_run_that_cannot_be_is_a_usage_error(name: str, command: list[str]) -> None:
    with pytest.raises(UsageError):
        config.ad_hoc(name, command)


# The page and the schema


def documented() -> dict[str, str]:
    """docs/config.md's keys, each with its default's cell."""
    lines = (ROOT / "docs" / "config.md").read_text(encoding="utf-8").splitlines()
    rows = [re.match(r"\| `([a-z_.]+)` \| ([^|]*) \|", line) for line in lines]
    return {row[1]: row[2] for row in rows if row}


def test_the_page_tells_every_key_and_only_those() -> None:
    assert set(documented()) == {*_schema.keys(), *(field.name for field in msgspec.structs.fields(_schema.File))}


def test_the_page_tells_the_defaults() -> None:
    for key, default in _schema.keys().items():
        cell = documented()[key]
        if not cell.startswith("`"):
            assert default in ("", None, 0, []), key  # told in words
            continue
        told = tomllib.loads(f"x = {cell.strip('`')}")["x"]
        if isinstance(told, str) and isinstance(default, (int, float)):
            told = parse_size(told) if isinstance(default, int) else parse_duration(told)
        assert told == default, key


def test_the_defaults_of_the_schema_are_the_models() -> None:
    spec = model.TargetSpec(name="x", instance="x", project="x", command=["x"], cwd=".").to_dict()
    for key, default in _schema.keys().items():
        table, _, name = key.rpartition(".")
        place = spec[table] if table else spec
        if table == "limits" and name != "interval":
            assert default == ("restart" if name == "action" else 0)
            assert name == "action" or place[name]["most"] == 0
        elif name not in ("command", "instance", "shell") or table:
            assert place[name] == default, key


def test_a_circle_of_dependencies_is_told_as_its_path(write: Write) -> None:
    error = refused(
        write,
        '[targets.a]\ncommand = "x"\ndepends_on = ["b"]\n[targets.b]\ncommand = "x"\ndepends_on = ["c"]\n'
        '[targets.c]\ncommand = "x"\ndepends_on = ["b"]\n',
    )
    assert "a circle: b → c → b" in error.message
    assert error.place.endswith("targets.c.depends_on")


def test_the_repositorys_own_file_is_valid() -> None:
    path = str(ROOT / "safe.toml")
    loaded = _targets.build(Path(path).read_text(encoding="utf-8"), path)
    assert {spec.instance for spec in loaded.targets.values()} >= {"robot"}


# Whatever it says: a Config or a SafeshError

ALL_KEYS = list(_schema.keys())  # a function, not a mapping
KEYS = sorted({word for key in ALL_KEYS for word in key.split(".")} | {"targets", "defaults", "project", "x"})
words = st.sampled_from(KEYS) | st.text(max_size=4)
scalars = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1s", "10M", "TERM", "always", "tree", "*", "python3 a.py", "~"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)


def toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        escaped = "".join(letter if 32 <= ord(letter) < 127 and letter not in '"\\' else "?" for letter in value)
        return f'"{escaped}"' if "?" not in escaped else f'"{value.encode("unicode_escape").hex()}\\u0000"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"


def judged(text: str) -> None:
    try:
        loaded = _targets.build(text, "/srv/robot/safe.toml")
    except SafeshError as error:
        assert error.place.startswith("/srv/robot/safe.toml")  # noqa: PT017
    else:
        for spec in loaded.targets.values():
            assert spec.command
            assert not any("\0" in word for word in spec.command)


fuzz = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@fuzz
@given(st.dictionaries(words, values, max_size=6))
def test_a_target_of_any_content_gives_a_config_or_an_error(table: dict[str, Any]) -> None:
    judged("\n".join(f"targets.x.{toml(key)} = {toml(item)}" for key, item in ({"command": "true"} | table).items()))


@fuzz
@given(st.dictionaries(words, values, max_size=4))
def test_a_file_of_any_content_gives_a_config_or_an_error(table: dict[str, Any]) -> None:
    judged("\n".join(f"{toml(key)} = {toml(item)}" for key, item in table.items()))


@fuzz
@given(st.text(max_size=60), st.integers(min_value=0, max_value=len(FULL)))
def test_a_file_with_any_text_in_it_gives_a_config_or_an_error(noise: str, place: int) -> None:
    judged(FULL[:place] + noise + FULL[place + len(noise) :])
