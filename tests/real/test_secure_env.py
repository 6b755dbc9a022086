"""SecureEnv: what gets into an environment, which files are refused, and where secrets are not seen."""

from __future__ import annotations

import base64
import binascii
import copy
import html
import inspect
import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safesh.errors import ConfigError
from safesh.process import secure_env
from safesh.process.errors import InvalidCommand
from safesh.process.secure_env import DEFAULT_ALLOW, SecureEnv

pytest.importorskip("dotenv")

NOBODY = 65534
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\n  AQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def dotenv(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "x.env"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


def refused(path: Path | str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        SecureEnv(file=path, source={})
    return caught.value


@contextmanager
def user(number: int) -> Iterator[None]:
    """Files are looked at with this user's rights (and without root's)."""
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="safesh-env-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


# --- what gets in -----------------------------------------------------------------------------


def test_nothing_but_the_allowed_gets_through_to_a_real_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SESSION", "LD_PRELOAD_NOT", "PYTHONPATH_NOT", "lang", "LC", "XLC_ALL", "PATHS", "SAFESH_RUN_ID"):
        monkeypatch.setenv(name, "stray")
    monkeypatch.setenv("LC_MESSAGES", "C")
    monkeypatch.setenv("TZ", "UTC")
    # env(1), not Python, which sets LC_CTYPE for itself
    done = subprocess.run(
        ["env", "-0"], env=SecureEnv().build(), capture_output=True, text=True, check=True, timeout=20
    )
    found = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert found["LC_MESSAGES"] == "C"
    assert found["TZ"] == "UTC"
    assert "stray" not in found.values()
    assert {name for name in found if not name.startswith("LC_")} <= set(DEFAULT_ALLOW)


def test_an_allow_list_of_ones_own_replaces_the_default() -> None:
    source = {"PATH": "/bin", "APP_ONE": "1", "APP_two": "2", "app_three": "3", "B": "b"}
    assert SecureEnv(allow=["APP_*", "B"], source=source).build() == {"APP_ONE": "1", "APP_two": "2", "B": "b"}
    assert SecureEnv(allow=[], source=source).build() == {}


def test_values_win_over_the_file_and_the_file_over_the_caller(tmp_path: Path) -> None:
    path = dotenv(tmp_path, "LANG=file\nTERM=file\n")
    env = SecureEnv(file=path, values={"TERM": "given"}, source={"LANG": "caller", "TERM": "caller", "TZ": "caller"})
    assert env.build() == {"LANG": "file", "TERM": "given", "TZ": "caller"}


def test_each_build_gives_a_dict_of_its_own() -> None:
    env = SecureEnv(source={"PATH": "/bin"})
    env.build()["PATH"] = "changed"
    assert env.build() == {"PATH": "/bin"}


def test_later_changes_of_the_caller_do_not_get_in(tmp_path: Path) -> None:
    source = {"PATH": "/bin"}
    path = dotenv(tmp_path, "A=before\n")
    env = SecureEnv(file=path, source=source)
    source["PATH"] = "/tmp/evil"
    path.write_text("A=after\n")
    assert env.build() == {"PATH": "/bin", "A": "before"}


def test_nothing_is_interpolated(tmp_path: Path) -> None:
    path = dotenv(tmp_path, "A=$HOME\nB=${HOME}\nC=\"${A:-x}\"\nD='$(id)'\nE=`id`\n")
    env = SecureEnv(file=path, source={"HOME": "/home/me"}, allow=[])
    assert env.build() == {"A": "$HOME", "B": "${HOME}", "C": "${A:-x}", "D": "$(id)", "E": "`id`"}


def test_bytes_that_are_no_text_pass_unchanged() -> None:
    value = os.fsdecode(b"/caf\xe9/secret")
    env = SecureEnv(source={"HOME": value}, secrets=["HOME"])
    done = subprocess.run(["sh", "-c", 'printf %s "$HOME"'], env=env.build(), capture_output=True, timeout=20)
    assert done.stdout == b"/caf\xe9/secret"
    assert env.redact_bytes(done.stdout) == b"***"
    assert env.redact(done.stdout.decode("utf-8", "replace")) == "***"


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({"allow": "PATH"}, "allow"),
        ({"secrets": "TOKEN"}, "secrets"),
        ({"allow": [1]}, "allow"),
        ({"values": {"A": 1}}, "values['A']"),
        ({"values": {"A": "x\0hunter2"}}, "values['A']"),
        ({"values": {"": "x"}}, "values"),
        ({"values": {"A=B": "x"}}, "values"),
        ({"values": {1: "x"}}, "values"),
        ({"file": "a\0b"}, "file"),
    ],
)
def test_an_argument_that_could_never_work_is_refused_by_name(arguments: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        SecureEnv(**arguments)
    assert caught.value.place == place
    assert "hunter2" not in str(caught.value)


# --- which files ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o666, 0o660])
def test_a_file_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = dotenv(tmp_path, "A=hunter2\n", mode)
    error = refused(path)
    assert error.place == str(path)
    assert error.hint == f"chmod 600 {path}"
    assert f"{mode:04o}" in error.message
    path.chmod(0o600)
    assert SecureEnv(file=path, source={}).build() == {"A": "hunter2"}


def test_a_file_that_only_we_can_read_is_fine(tmp_path: Path) -> None:
    path = dotenv(tmp_path, "A=1\n", 0o400)
    assert SecureEnv(file=str(path), source={}).build() == {"A": "1"}


@as_root
def test_somebody_elses_file_is_refused_for_root_too(tmp_path: Path) -> None:
    path = dotenv(tmp_path, "A=1\n")
    os.chown(path, NOBODY, NOBODY)
    assert f"belongs to user {NOBODY}" in refused(path).message


@as_root
def test_roots_file_is_trusted_but_has_to_be_readable(open_folder: Path) -> None:
    path = dotenv(open_folder, "A=1\n")
    with user(NOBODY):
        error = refused(path)
    assert error.message.startswith("cannot be read: Permission denied")


@as_root
def test_an_unreadable_file_of_ours_is_told(open_folder: Path) -> None:
    path = dotenv(open_folder, "A=1\n", 0)
    os.chown(path, NOBODY, NOBODY)
    with user(NOBODY):
        assert refused(path).message.startswith("cannot be read: Permission denied")


@as_root
def test_an_ordinary_user_is_served_his_own_file(open_folder: Path) -> None:
    path = dotenv(open_folder, "A=1\n")
    os.chown(path, NOBODY, NOBODY)
    with user(NOBODY):
        assert SecureEnv(file=path, source={}).build() == {"A": "1"}


def test_our_symlinks_to_our_private_file_are_followed(tmp_path: Path) -> None:
    dotenv(tmp_path, "A=1\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "one").symlink_to("../x.env")
    (tmp_path / "two").symlink_to(tmp_path / "sub" / "one")
    assert SecureEnv(file=tmp_path / "two", source={}).build() == {"A": "1"}


def test_a_symlink_to_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    dotenv(tmp_path, "A=1\n", 0o644)
    (tmp_path / "link").symlink_to("x.env")
    assert "others can read" in refused(tmp_path / "link").message


@as_root
def test_a_symlink_to_somebody_elses_file_is_refused(tmp_path: Path) -> None:
    os.chown(dotenv(tmp_path, "A=1\n"), NOBODY, NOBODY)
    (tmp_path / "link").symlink_to("x.env")
    assert f"belongs to user {NOBODY}" in refused(tmp_path / "link").message


@as_root
def test_somebody_elses_symlink_to_our_file_is_refused(tmp_path: Path) -> None:
    dotenv(tmp_path, "A=1\n")
    (tmp_path / "link").symlink_to("x.env")
    os.chown(tmp_path / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert f"is a symlink of user {NOBODY}" in refused(tmp_path / "link").message


def test_symlinks_in_a_circle_and_to_nothing_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "symbolic links" in refused(tmp_path / "a").message
    (tmp_path / "c").symlink_to("nothing")
    assert refused(tmp_path / "c").message == "there is no such file"


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path, 0o600)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def make_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_folder, "is a folder"),
        (make_pipe, "not a regular file"),
        (make_socket, "cannot be read: No such device"),
        (make_device, "not a regular file"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    folder = Path(os.path.relpath(tmp_path))  # a socket's name is short
    make(folder / "x")
    assert message in refused(tmp_path / "x").message


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    error = refused(tmp_path / "none.env")
    assert str(error) == f"{tmp_path}/none.env: there is no such file"


def test_a_file_larger_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    assert "larger than 1 MiB" in refused(dotenv(tmp_path, "A=" + "x" * (1 << 20))).message


def test_refusals_leave_no_descriptor_open(tmp_path: Path) -> None:
    before = os.listdir("/dev/fd")
    for text, mode in (("A=1", 0o644), (b"\xff", 0o600), ("A='", 0o600), ("A=1", 0o600)):
        try:
            SecureEnv(file=dotenv(tmp_path, text, mode))
        except ConfigError:
            pass
    assert len(os.listdir("/dev/fd")) == len(before)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_checked_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Somebody exchanges the file just before, or just after, it is opened."""
    name, other = tmp_path / "name", tmp_path / "other"
    readable_first = moment == "after"
    for path, readable in ((name, readable_first), (other, not readable_first)):
        path.write_text(f"A={'readable' if readable else 'private'}")
        path.chmod(0o644 if readable else 0o600)
    real = os.open

    def open_exchanged(path: Any, *args: Any, **options: Any) -> int:
        if path != str(name):
            return real(path, *args, **options)
        if moment == "before":
            os.replace(other, name)
        fd = real(path, *args, **options)
        if moment == "after":
            os.replace(other, name)
        return fd

    monkeypatch.setattr(os, "open", open_exchanged)
    assert "others can read" in refused(name).message


def test_a_symlink_that_is_exchanged_while_it_is_followed_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for letter in "ab":
        path = tmp_path / letter
        path.write_text(f"A={letter}")
        path.chmod(0o600)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "fresh").symlink_to("b")
    real = os.readlink

    def readlink_exchanged(path: Any) -> Any:
        aim = real(path)
        if (tmp_path / "fresh").is_symlink():
            os.replace(tmp_path / "fresh", tmp_path / "link")
        return aim

    monkeypatch.setattr(os, "readlink", readlink_exchanged)
    assert SecureEnv(file=tmp_path / "link", source={}).build() == {"A": "b"}


# --- what stands in them ----------------------------------------------------------------------


def test_the_forms_of_dotenv_are_read(tmp_path: Path) -> None:
    text = (
        '\ufeff# note\r\n\nA=1 # note\nexport B=\'two words\'\nC="a\\nb"\nD="line\nline"\nE=\n'
        "F=it's\nA=later\n" + f"KEY='{KEY}'\n"
    )
    found = SecureEnv(file=dotenv(tmp_path, text), source={}).build()
    assert found == {
        "A": "later", "B": "two words", "C": "a\nb", "D": "line\nline", "E": "", "F": "it's", "KEY": KEY,
    }  # fmt: skip


BAD_LINES = [
    ("A='hunter2", "no KEY=VALUE"),
    ('A="hunter2', "no KEY=VALUE"),
    ("A='x' hunter2", "no KEY=VALUE"),
    ("=hunter2", "no KEY=VALUE"),
    ("hunter2", "no '='"),
    ("hunter2+/=x", "cannot name a variable"),
    ("1hunter2=x", "cannot name a variable"),
    ("'hunter2 x'=1", "cannot name a variable"),
    ("A=hunter2\0", "NUL"),
]


@pytest.mark.parametrize("before", ["", "\n\n", "A=1\n\n# note\n", "A='1\n2'\r\n\r\n"])
@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_told_by_number_and_without_any_of_it(
    tmp_path: Path, line: str, message: str, before: str
) -> None:
    path = dotenv(tmp_path, before + line + "\nB=2\n")
    error = refused(path)
    assert message in error.message
    assert error.place == f"{path}:{len(before.splitlines()) + 1}"
    assert "hunter2" not in str(error) + error.hint
    chain = error.__cause__ or error.__context__
    assert "hunter2" not in repr(chain and vars(chain))


def test_bytes_that_are_not_utf8_are_told_by_line_and_kept_from_reporters(tmp_path: Path) -> None:
    path = dotenv(tmp_path, b"A=1\nB=hunter2\xff\n")
    error = refused(path)
    assert str(error) == f"{path}:2: is not UTF-8"
    assert error.__context__ is None


def test_the_library_warns_of_nothing_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        refused(dotenv(tmp_path, "A='x"))
    assert not caplog.records


def test_a_missing_library_is_told_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "dotenv"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "dotenv", None)
    error = refused(dotenv(tmp_path, "A=1"))
    assert "python-dotenv, which is not installed" in error.message
    assert error.hint == "pip install 'python-dotenv>=1.0'"
    assert SecureEnv(source={"PATH": "/bin"}).build() == {"PATH": "/bin"}  # nobody else needs it


def test_the_module_does_not_load_the_library() -> None:
    code = "import safesh.process.secure_env, sys; sys.exit('dotenv' in sys.modules)"
    folder = str(Path(secure_env.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=30)


# --- what counts as secret --------------------------------------------------------------------


def test_the_files_names_the_named_and_those_that_look_it_are_secret(tmp_path: Path) -> None:
    source = {
        "PATH": "/bin", "GITHUB_TOKEN": "t", "my_secret": "s", "DbPassword": "p", "OLD_PASSWD": "p", "X_API_KEY": "k",
        "SSH_PRIVATE_KEY": "k", "AWS_CREDENTIALS": "c", "APP_PIN": "1", "APP_ID": "2", "KEYBOARD": "us",
    }  # fmt: skip
    env = SecureEnv(
        allow=["*"], file=dotenv(tmp_path, "LEVEL=high\n"), values={"A_TOKEN": "x", "B": "y"}, secrets=["APP_P*", "NO"],
        source=source,
    )  # fmt: skip
    assert env.secrets == {*source, "LEVEL", "A_TOKEN"} - {"PATH", "APP_ID", "KEYBOARD"}


def test_a_value_that_another_replaced_is_still_redacted(tmp_path: Path) -> None:
    env = SecureEnv(file=dotenv(tmp_path, "A=first one\n"), values={"A": "second one"}, source={})
    assert env.redact("first one, second one") == "***, ***"


# --- where secrets are not seen ---------------------------------------------------------------


def test_no_way_of_showing_it_shows_a_value(tmp_path: Path) -> None:
    env = SecureEnv(
        file=dotenv(tmp_path, "DB=hunter2-file\n"), values={"API_TOKEN": "hunter2-given", "PLAIN": "hunter2-plain"},
        source={"PATH": "hunter2-path"},
    )  # fmt: skip
    env.redact("built")
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        print(env, [env], {"env": env})
        logging.StreamHandler(sys.stderr).emit(logging.LogRecord("n", 20, "f", 1, "%s %r", (env, env), None))
        help(SecureEnv)
    shown = f"{env} {env!r} {env!s:>10} {str(env)!a} %s" % env + out.getvalue() + err.getvalue()
    shown += str(inspect.signature(SecureEnv)) + repr(copy.copy(env))
    assert "hunter2" not in shown
    assert repr(env) == (
        f"SecureEnv(file='{tmp_path}/x.env', names=['API_TOKEN', 'DB', 'PATH', 'PLAIN'], secrets=['API_TOKEN', 'DB'])"
    )


def test_the_signature_does_not_show_the_callers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    assert "hunter2" not in str(inspect.signature(SecureEnv))


def test_a_copy_through_pickle_redacts_alike() -> None:
    env = SecureEnv(values={"TOKEN": "hunter2"}, source={})
    assert pickle.loads(pickle.dumps(env)).redact("hunter2") == "***"


VALUES = ["hunter2", 'p&ss "w\'rd"<x>/+%~', "söße 漢字 \U0001f511", "a\\b\tc", "tr\nick y", "  spaced out  ", "x" * 300]


def forms(value: str) -> dict[str, str]:
    data = value.encode()
    return {
        "itself": value,
        "url": urllib.parse.quote(value, safe=""),
        "url with slashes": urllib.parse.quote(value),
        "url form": urllib.parse.quote_plus(value),
        "url in small letters": re.sub("%..", lambda match: match[0].lower(), urllib.parse.quote(value, safe="")),
        "json": json.dumps(value)[1:-1],
        "json unescaped": json.dumps(value, ensure_ascii=False)[1:-1],
        "repr": repr(value)[1:-1],
        "repr of bytes": repr(data)[2:-1],
        "shell": shlex.quote(value).strip("'"),
        "html": html.escape(value),
        "hex": binascii.hexlify(data).decode(),
        "HEX": binascii.hexlify(data).decode().upper(),
    }


@pytest.mark.parametrize("value", VALUES)
def test_each_listed_form_of_a_value_is_redacted(value: str) -> None:
    env = SecureEnv(values={"TOKEN": value}, source={})
    for name, form in forms(value).items():
        assert env.redact(f"<{form}>") == "<***>", name
        assert env.redact_bytes(f"<{form}>".encode()) == b"<***>", name


@pytest.mark.parametrize("before", ["", "u", "us", "user:", "admin:x"])
@pytest.mark.parametrize("after", ["", "@", "\n", "tail"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("value", VALUES)
def test_base64_is_redacted_wherever_the_value_stands_in_it(
    value: str, before: str, after: str, encode: Callable[[bytes], bytes]
) -> None:
    env = SecureEnv(values={"TOKEN": value}, source={})
    coded = encode((before + value + after).encode()).decode()
    left = env.redact(f"Authorization: Basic {coded}")
    assert "***" in left
    # Of its edges at most a character each is left, which the neighbours share.
    kept = left.removeprefix("Authorization: Basic ").split("***")
    assert len(kept[0]) <= len(before) * 8 / 6 + 1
    assert len(kept[-1].rstrip("=")) <= (len(after) * 8 / 6) + 2


def test_a_private_key_is_redacted_line_by_line(tmp_path: Path) -> None:
    env = SecureEnv(file=dotenv(tmp_path, f'KEY="{KEY}"\n'), source={})
    for text in (
        KEY,
        KEY.replace("\n", "\r\n"),
        "".join(f"12:00 worker | {line.strip()}\n" for line in KEY.splitlines()),
        json.dumps(KEY),
        repr(KEY),
        urllib.parse.quote(KEY),
        base64.b64encode(KEY.encode()).decode(),
        KEY.splitlines()[2],
    ):
        left = env.redact(text)
        for line in KEY.split():
            assert line not in left
        assert "MIIEvQ" not in left
        assert "AQEFAA" not in left


def test_the_longest_value_is_redacted_first_and_overlaps_whole() -> None:
    env = SecureEnv(values={"A_TOKEN": "abcd", "B_TOKEN": "abcdefgh", "C_TOKEN": "ghijklmnop"}, source={})
    assert env.redact("abcdefgh abcd abcdx") == "*** *** ***x"
    assert env.redact("-abcdefghijklmnop-") == "-***-"
    assert env.redact("abcdabcd") == "***"


def test_a_value_of_three_characters_is_not_redacted_and_one_of_four_is() -> None:
    env = SecureEnv(values={"A_TOKEN": "abc", "B_TOKEN": "wxyz", "C_TOKEN": "", "D_TOKEN": "     "}, source={})
    assert env.redact("abc wxyz      abcwxyz") == "abc ***      abc***"


def test_nothing_secret_leaves_a_text_as_it_is() -> None:
    text = "any\0 text \udcff"
    assert SecureEnv(source={}).redact(text) is text
    assert SecureEnv(source={}).redact_bytes(b"\xff\0") == b"\xff\0"


class Pair(NamedTuple):
    left: str
    right: int


def test_nested_data_is_redacted_and_keeps_its_shape() -> None:
    env = SecureEnv(values={"TOKEN": "hunter2", "PIN_SECRET": "12"}, source={})
    data = {
        "argv": ["curl", "-H", "X: hunter2"],
        "env": {"TOKEN": "hunter2", "PIN_SECRET": "12", "A": "12"},
        "hunter2": {"deep": [({"b": b"hunter2", "s": {"hunter2"}},)]},
        "pair": Pair("hunter2", 5),
        "path": Path("/tmp/hunter2"),
        "error": ValueError("bad hunter2"),
        "numbers": [1, 2.5, None, True],
    }
    assert env.redact_data(data) == {
        "argv": ["curl", "-H", "X: ***"],
        "env": {"TOKEN": "***", "PIN_SECRET": "***", "A": "12"},
        "***": {"deep": [({"b": b"***", "s": {"***"}},)]},
        "pair": Pair("***", 5),
        "path": "/tmp/***",
        "error": "bad ***",
        "numbers": [1, 2.5, None, True],
    }
    assert data["argv"] == ["curl", "-H", "X: hunter2"]


def test_data_that_holds_itself_ends() -> None:
    env = SecureEnv(values={"TOKEN": "hunter2"}, source={})
    data: list[Any] = ["hunter2"]
    data.append(data)
    assert "hunter2" not in repr(env.redact_data(data))


_SECRET = st.text(alphabet="abAB 01'\"\\/%&é\n=", min_size=4, max_size=12).filter(lambda text: len(text.strip()) >= 4)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(_SECRET, min_size=1, max_size=4), st.data())
def test_no_secret_is_left_in_any_text(values: list[str], data: st.DataObject) -> None:
    env = SecureEnv(values={f"S{number}": value for number, value in enumerate(values)}, secrets=["S*"], source={})
    piece = st.one_of(st.sampled_from(values), st.text(alphabet="abAB 01'\"\\é\n", max_size=6))
    text = "".join(data.draw(st.lists(piece, max_size=6)))
    left = env.redact(text)
    assert all(value not in left for value in values)
    assert env.redact(left) == left
    assert env.redact_bytes(text.encode()) == left.encode()
    if left == text:
        assert all(value not in text for value in values)


@pytest.mark.timeout(60)
def test_a_megabyte_with_many_secrets_is_redacted_in_a_moment() -> None:
    values = {f"S{number}": f"{number:04d}-{os.urandom(16).hex()}" for number in range(50)}
    env = SecureEnv(values=values, secrets=["S*"], source={})
    text = "2024-01-01 12:00:00 INFO a line as programs write them, with numbers 12345\n" * 14_000 + values["S7"]
    env.redact("built")
    began = time.process_time()
    left = env.redact(text)
    spent = time.process_time() - began
    assert left.endswith("\n***")
    assert spent < 5, f"{spent:.2f} s"
