"""``top``: one table, JSON, and the live view by its keys on a real terminal, which it gives back as it was."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator

import pexpect
import pytest

from helpers import procs
from helpers.home import CLI, Home, Safe
from safesh.cli.top_screen import split_keys
from safesh.metrics.model import ProcessUsage
from safesh.metrics.table import arrange, grow, is_python, is_streamlit, level, script_of, typed_pattern

PARENT = """
import signal, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
children = [subprocess.Popen(["sleep", "601"]), subprocess.Popen([sys.executable, "-c", deaf, "deaf-one"])]
print("ready", flush=True)
while True:
    for child in children:
        child.poll()
    time.sleep(0.1)
"""


@pytest.fixture
def robot(home: Home, safe: Safe) -> Iterator[dict[str, procs.Process]]:
    """A running target ``robot`` beside ``idle``, which is not; its processes as ``main``, ``sleep``, ``deaf``."""
    (home.project / "parent.py").write_text(PARENT)
    home.write_config(
        f'[targets.robot]\ncommand = [{sys.executable!r}, "parent.py"]\nready = {{ log = "deaf" }}\n'
        'stop = { grace = "1s" }\n[targets.idle]\ncommand = ["sleep", "602"]\n'
    )
    with safe.started("robot"):
        main = json.loads(home.state_file("robot.json").read_text())["main"]["pid"]
        found = {}
        for one in procs.tree_of(main):
            words = " ".join(procs.argv(one.pid))
            found["main" if one.pid == main else "sleep" if "sleep 601" in words else "deaf"] = one
        assert set(found) == {"main", "sleep", "deaf"}
        yield found


# --- one table, and JSON ---------------------------------------------------------------------------


def test_one_table_through_a_pipe_is_plain_and_each_line_names_its_instance(
    robot: dict[str, procs.Process], safe: Safe
) -> None:
    out = safe("top", env={"TERM": "xterm"}).check().out
    assert "\x1b" not in out
    lines = {line.split()[1]: line for line in out.splitlines() if line.startswith("robot ")}
    assert set(lines) == {"-", *(str(one.pid) for one in robot.values())}
    assert all(line.split()[2] == "-" for line in lines.values()), "a first look knows no CPU"
    assert "running, 3 processes" in lines["-"]
    assert lines[str(robot["sleep"].pid)].endswith("─ sleep 601")
    assert re.search(r"^idle .*not running$", out, re.M)


def test_json_is_one_versioned_document_and_rates_need_two_looks(robot: dict[str, procs.Process], safe: Safe) -> None:
    first, second = (safe("top", "robot", "--json", *more).check().json() for more in ((), ("--interval", "0.3s")))
    assert first["v"] == second["v"] == 1
    (before,), (now,) = first["instances"], second["instances"]
    assert before["total"]["cpu_percent"] is None
    assert first["system"]["cpu_percent"] is None
    assert now["total"]["cpu_percent"] >= 0
    assert {one["pid"] for one in now["processes"]} == {one.pid for one in robot.values()}
    for one in now["processes"]:
        assert one["cpu_percent"] is not None
        assert one["read_bytes_s"] is not None
    assert (now["name"], now["state"], now["pid"]) == ("robot", "running", robot["main"].pid)


@pytest.mark.parametrize(
    ("words", "rc", "told"),
    [
        (("nobody",), 2, "nobody"),
        (("--interval", "0.01"), 2, "too short"),
        (("robot", "idle"), 2, ""),
    ],
)
def test_a_wrong_line_is_told(home: Home, safe: Safe, words: tuple[str, ...], rc: int, told: str) -> None:
    home.write_config('[targets.robot]\ncommand = ["sleep", "600"]\n')
    done = safe("top", *words).check(rc)
    assert told in done.err
    assert done.out == ""


def test_where_there_is_nothing_it_says_what_to_do(home: Home, safe: Safe) -> None:
    assert "no safe.toml here" in safe("top").check().out


# --- the live view ---------------------------------------------------------------------------------


class Top:
    """``top`` below an interactive bash, so that job control and the terminal's modes are real."""

    def __init__(self, columns: int = 120, **env: str) -> None:
        given = {**os.environ, "PS1": "PROMPT ", "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env}
        if "NO_COLOR" not in env:
            given.pop("NO_COLOR", None)
        self.shell = pexpect.spawn(
            "bash", ["--norc", "--noediting", "-i"], env=given, encoding="utf-8", timeout=15, dimensions=(30, columns)
        )
        self.shell.expect("PROMPT ")
        self.before = self.modes()

    def modes(self) -> str:
        """What stty tells; the window's size, by which its lines are broken too, is no mode."""
        self.shell.sendline('stty -a; echo mo""des')
        self.shell.expect(r"\nspeed(.*?)modes\r\n")
        told = self.shell.match[1]
        self.shell.expect("PROMPT ")
        return re.sub(r"rows \d+; columns \d+; ", "", " ".join(told.split()))

    def begin(self, *words: str) -> None:
        self.shell.sendline(f"{' '.join(CLI)} top --interval 0.3s {' '.join(words)}; echo status $?.")
        self.shell.expect("CPU%")

    def frame(self) -> list[str]:
        """The next whole frame, as lines without styles."""
        self.shell.expect(r"\x1b\[H((?:(?!\x1b\[H).)*?)\x1b\[J")
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.shell.match[1])
        return [line.replace("\x1b[K", "").rstrip("\r") for line in text.split("\n")]

    def frame_with(self, pattern: str) -> list[str]:
        end = time.monotonic() + 15
        while time.monotonic() < end:
            lines = self.frame()
            if any(re.search(pattern, line) for line in lines):
                return lines
        raise AssertionError(f"no frame with {pattern!r}: {lines}")

    def select(self, pid: int) -> None:
        """Frames lag behind keys, so steps are counted in one frame and looked for in those that follow."""
        for _try in range(10):
            self.shell.send("\x1b[H")
            lines = self.frame_with(r"^> +- ")
            at = [number for number, line in enumerate(lines) if re.match(rf"[> ] *({pid}|-) ", line)]
            wanted = next((number for number in at if re.match(rf"[> ] *{pid} ", lines[number])), at[0])
            self.shell.send("\x1b[B" * (wanted - at[0]))
            for _frame in range(5):
                if any(re.match(rf"> *{pid} ", line) for line in self.frame()):
                    return
        raise AssertionError(f"{pid} cannot be selected")

    def pid(self) -> procs.Process:
        return next(one for one in procs.tree_of(self.shell.pid) if "top" in procs.argv(one.pid))

    def check_given_back(self, status: str) -> None:
        """It has ended with this status, and the terminal is what it was."""
        self.shell.expect(r"status (\d+)\.")
        said = self.shell.before
        assert self.shell.match[1] == status
        assert "Traceback" not in said
        for sequence in ("\x1b[?7h", "\x1b[?25h", "\x1b[?1049l"):
            assert sequence in said
        self.shell.expect("PROMPT ")
        assert self.modes() == self.before


@pytest.fixture
def top(robot: dict[str, procs.Process]) -> Iterator[Top]:
    made = Top()
    try:
        yield made
    finally:
        made.shell.close(force=True)


def test_a_process_is_selected_asked_about_and_stopped_by_keys(top: Top, robot: dict[str, procs.Process]) -> None:
    one = robot["sleep"]
    top.begin()
    top.select(one.pid)
    top.shell.send("s")
    lines = top.frame_with(r"Stop process \d+ \(SIGTERM\)\? \[y/N\]")
    assert re.split(r" {2,}", lines[0].strip()) == ["PID", "AGE", "CPU", "MEMORY", "S", "COMMAND"]
    assert re.match(rf" *{one.pid} .*MiB.* sleep 601", lines[1])
    top.shell.send("y\r")
    procs.wait_until(lambda: not procs.alive(one.pid, one.start))
    top.frame_with("SIGTERM sent")
    top.frame_with("running, 2 processes")
    assert all(procs.alive(robot[name].pid, robot[name].start) for name in ("main", "deaf"))
    top.shell.send("q")
    top.check_given_back("0")


def test_what_ignores_its_stop_signal_is_killed_by_k(top: Top, robot: dict[str, procs.Process]) -> None:
    one = robot["deaf"]
    top.begin("robot")
    top.select(one.pid)
    top.shell.send("s")
    top.frame_with("Stop process")
    top.shell.send("y\r")
    top.frame_with("SIGTERM sent")
    assert procs.alive(one.pid, one.start)
    top.shell.send("k")
    top.frame_with("Kill process")
    top.shell.send("yes\r")
    procs.wait_until(lambda: not procs.alive(one.pid, one.start))


@pytest.mark.parametrize("answer", ["n\r", "\r", "\x1b", "yo\r"])
def test_any_other_answer_ends_nobody(top: Top, robot: dict[str, procs.Process], answer: str) -> None:
    one = robot["sleep"]
    top.begin()
    top.select(one.pid)
    top.shell.send("k")
    top.frame_with("Kill process")
    top.shell.send(answer)
    top.frame_with("nothing was ended")
    assert procs.alive(one.pid, one.start)


def test_what_was_typed_before_the_question_was_seen_does_not_answer_it(
    top: Top, robot: dict[str, procs.Process]
) -> None:
    one = robot["sleep"]
    top.begin()
    top.select(one.pid)
    top.shell.send("ky\r")  # pasted
    top.frame_with(r"Kill process \d+ \(SIGKILL\)\? \[y/N\] .?$")
    assert procs.alive(one.pid, one.start)


def test_who_ended_while_the_question_stood_is_told_and_nobody_is_signalled(
    top: Top, robot: dict[str, procs.Process]
) -> None:
    one = robot["sleep"]
    top.begin()
    top.select(one.pid)
    top.shell.send("s")
    top.frame_with("Stop process")
    procs.send(one.pid, one.start, signal.SIGKILL)
    procs.wait_until(lambda: not procs.alive(one.pid, one.start))
    top.shell.send("y\r")
    top.frame_with(f"pid {one.pid}: .*(ended|no process|no such)")


def test_a_whole_instance_is_stopped_by_keys(top: Top, robot: dict[str, procs.Process], safe: Safe) -> None:
    top.begin()
    top.shell.send("\x1b[Hs")
    lines = top.frame_with(r"Stop 3 processes\? \[y/N\]")
    assert lines[0] == "robot: target robot, 3 processes"
    for one in robot.values():
        assert any(re.match(rf" *{one.pid} ", line) for line in lines)
    top.shell.send("y\r")
    top.frame_with("robot: stopped in .*, nobody is left")
    assert not any(procs.alive(one.pid, one.start) for one in robot.values())
    assert safe("status", "robot").rc == 3
    top.shell.send("q")
    top.check_given_back("0")


def test_sorting_folding_and_filtering_by_keys(top: Top, robot: dict[str, procs.Process]) -> None:
    top.begin()
    top.frame_with(r"CPU%\*")
    for key, title in (("m", "MEMORY"), ("t", "RUNTIM"), ("p", "PID"), ("n", "COMMAND"), ("c", "CPU%")):
        top.shell.send(key)
        top.frame_with(rf"{title}\*")
    top.select(robot["main"].pid)
    top.shell.send(" ")
    lines = top.frame_with(r"\[\+2\]")
    assert not any("sleep 601" in line for line in lines)
    top.shell.send(" ")
    top.frame_with("sleep 601")
    top.shell.send("/SLEEP 60[1]\r")
    lines = top.frame_with(r"filter: SLEEP 60\[1\] ")
    assert any("sleep 601" in line for line in lines)
    assert any(str(robot["main"].pid) in line for line in lines), "the ancestors of what matches are shown"
    assert not any("deaf-one" in line or "idle" in line for line in lines)
    top.shell.send("\x1b")
    top.frame_with("idle")
    top.shell.send("h")
    top.frame_with(r"top itself \(pid \d+\): [\d.]+% CPU")
    top.shell.send("h")
    top.frame_with("CPU%")


# --- the terminal ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "status"), [("q", "0"), ("\x03", "0"), ("TERM", "143"), ("HUP", "129"), ("question", "143")]
)
def test_the_terminal_is_given_back_however_it_ends(
    top: Top, robot: dict[str, procs.Process], way: str, status: str
) -> None:
    top.begin()
    if way in ("TERM", "HUP", "question"):
        if way == "question":
            top.shell.send("k")
            top.frame_with("Kill")
        one = top.pid()
        procs.send(one.pid, one.start, signal.SIGHUP if way == "HUP" else signal.SIGTERM)
    else:
        top.shell.send(way)
    top.check_given_back(status)
    assert all(procs.alive(one.pid, one.start) for one in robot.values())


def test_the_terminal_is_given_back_when_there_is_a_bug(top: Top) -> None:
    folder = os.path.dirname(os.path.dirname(CLI[-1]))
    code = (
        f"import sys; sys.path.insert(0, {folder!r}); from safesh.cli import top_view, main; "
        "top_view.View.refresh = lambda self: 1 // 0; sys.exit(main.main(['top']))"
    )
    top.shell.sendline(f'{" ".join(CLI[:-1])} -c "{code}"; echo status $?.')
    top.check_given_back("70")


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_again(top: Top) -> None:
    top.begin()
    top.shell.sendcontrol("z")
    top.shell.expect("Stopped")
    assert "\x1b[?1049l" in top.shell.before
    top.shell.expect("PROMPT ")
    assert top.modes() == top.before
    top.shell.sendline("fg")
    top.frame_with("CPU%")
    top.shell.send("q")
    top.shell.expect("PROMPT ")
    assert top.modes() == top.before


@pytest.mark.parametrize("columns", [200, 80, 40, 20])
def test_no_line_is_wider_than_the_window_also_after_a_resize(robot: dict[str, procs.Process], columns: int) -> None:
    top = Top(NO_COLOR="1")
    try:
        top.begin()
        top.shell.setwinsize(12, columns)
        procs.wait_until(lambda: max(map(len, top.frame())) <= columns, 10, "a frame for the new window")
        last = top.frame()
        assert len(last) <= 12
        assert max(map(len, last)) <= columns
        assert any(str(robot["main"].pid) in line for line in last)
        if columns >= 40:
            assert any("python" in line for line in last)
        top.shell.send("q")
        top.check_given_back("0")
    finally:
        top.shell.close(force=True)


def test_no_color_leaves_reverse_video_only(robot: dict[str, procs.Process]) -> None:
    top = Top(NO_COLOR="1")
    try:
        top.begin()
        for _frame in range(3):
            top.shell.expect(r"\x1b\[H((?:(?!\x1b\[H).)*?)\x1b\[J")
            assert set(re.findall(r"\x1b\[([0-9;]*)m", top.shell.match[1])) <= {"7", "0"}
    finally:
        top.shell.close(force=True)


def test_a_safe_toml_that_breaks_meanwhile_is_told_and_the_view_goes_on(
    top: Top, home: Home, robot: dict[str, procs.Process]
) -> None:
    good = (home.project / "safe.toml").read_text()
    top.begin()
    home.write_config("[targets.robot\n")
    lines = top.frame_with("safe.toml")
    assert any(str(robot["sleep"].pid) in line for line in lines)
    home.write_config(good)


def test_a_look_costs_little(top: Top) -> None:
    """At 2 s a look of 20 ms is one percent of a core; ours takes a fraction of it."""
    top.begin()
    one = top.pid()

    def spent() -> float:
        with open(f"/proc/{one.pid}/stat") as file:
            words = file.read().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    before = spent()
    for _look in range(20):
        top.frame()
    assert (spent() - before) / 20 < 0.02


# --- the parts -------------------------------------------------------------------------------------


def usage(pid: int, ppid: int, cpu: float | None, **more: object) -> ProcessUsage:
    return ProcessUsage(pid=pid, ppid=ppid, start=pid, name=f"p{pid}", cpu_percent=cpu, **more)  # type: ignore[arg-type]


def test_siblings_stand_in_the_order_of_what_they_and_all_below_use() -> None:
    found = [usage(1, 0, 0.0), usage(2, 1, 5.0), usage(3, 1, 0.0), usage(4, 3, 9.0), usage(5, 1, None)]
    lines = arrange(grow(found), "cpu")
    assert [line.node.usage.pid for line in lines] == [1, 3, 4, 2, 5]
    assert [line.path for line in lines] == [(), (False,), (False, True), (False,), (True,)]
    folded = arrange(grow(found), "pid", folded={(3, 3)})
    assert [(line.node.usage.pid, line.folded) for line in folded] == [(1, 0), (2, 0), (3, 1), (5, 0)]
    kept = arrange(grow(found), "pid", folded={(3, 3)}, keep=lambda one: one.pid == 4)
    assert [line.node.usage.pid for line in kept] == [1, 3, 4]


def test_a_circle_of_parents_and_a_reused_number_lose_nobody() -> None:
    found = [usage(7, 8, 1.0), usage(8, 7, 1.0), usage(9, 9, 1.0)]
    assert sorted(line.node.usage.pid for line in arrange(grow(found), "cpu")) == [7, 8, 9]
    deep = [usage(pid, pid - 1, 0.1) for pid in range(2, 5000)]
    assert len(arrange(grow(deep), "cpu")) == len(deep)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        ("python3 /opt/a/worker.py --id 3", ("worker.py", ["--id", "3"])),
        ("python -u -W ignore -X dev worker.py", ("worker.py", [])),
        ("python3 -m http.server 80", ("-m http.server", ["80"])),
        ("python3 -Wdefault -Bum pkg.mod x", ("-m pkg.mod", ["x"])),
        ("python3 -cprint(1)", ("-c print(1)", [])),
        ("python3", ("", [])),
        ("python3 -", ("-", [])),
        ("python3 --check-hash-based-pycs always run.py", ("run.py", [])),
    ],
)
def test_the_script_is_found_as_python_reads_its_line(words: str, script: tuple[str, list[str]]) -> None:
    assert script_of(words.split(" ")) == script


def test_python_streamlit_levels_and_patterns() -> None:
    assert is_python("python3.11", [])
    assert is_python("worker", ["/venv/bin/pypy3", "w.py"])
    assert not is_python("pythonista", ["pythonista"])
    assert not is_python("sh", ["sh", "python3"])
    assert is_streamlit(["python3", "-m", "streamlit", "run", "app.py"])
    assert is_streamlit(["/v/bin/python3", "/v/bin/streamlit", "run", "app.py"])
    assert not is_streamlit(["python3", "streamlit_like.py"])
    assert [level(one) for one in (None, 0.0, 20.0, 20.1, 50.0, 50.1)] == [
        "unknown", "calm", "calm", "warm", "warm", "hot",
    ]  # fmt: skip
    pattern = typed_pattern("(")
    assert pattern is not None
    assert pattern.matches(usage(1, 0, None, command="f(x)"))


def test_keys_are_told_apart_from_sequences() -> None:
    assert split_keys("a\x1b[A\x1b[5~\x1bOB\r\x7f") == ["a", "up", "page up", "down", "enter", "backspace"]
    assert split_keys("\x1b") == ["escape"]
    assert split_keys("\x1bk") == ["escape", "k"]
    assert split_keys("\x1b[99;5u\x1b[<0;1;1Mé") == ["é"]
