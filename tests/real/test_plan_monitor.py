"""``ExecutionMonitor`` on a real terminal: drawn, resized, printed through, interrupted, and never left broken."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from helpers.home import SUPERVISOR
from helpers.procs import wait_until

HEAD = """
import sys, time, threading
sys.path.insert(0, sys.argv[1])
from safesh import ExecutionMonitor
def ask():
    return sys.stdin.readline()
m = ExecutionMonitor("demo", "Build it all", history=lambda step: 10.0)
for name in ("fetch", "compile", "link"):
    m.add_step(name, "analysis", "groq", "to " + name)
"""


class Emulator:
    """As much of a terminal as is needed to see what a person would: a grid, the cursor, whether it is visible."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.lines: list[list[str]] = [[] for _ in range(rows)]
        self.scrolled: list[str] = []
        self.x = self.y = 0
        self.hidden = self.alternate = False
        self.style = ""
        self._rest = ""

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        place = 0
        while place < len(text):
            letter = text[place]
            if letter == "\x1b":
                found = re.compile(r"\x1b(?:\[([?\d;]*)([A-Za-z])|[^\[])").match(text, place)
                if found is None:
                    self._rest = text[place:]
                    return
                assert found[2], f"unknown escape {found[0]!r}"
                self._control(found[1], found[2])
                place = found.end()
                continue
            place += 1
            if letter == "\r":
                self.x = 0
            elif letter == "\n":
                self._down()
            elif letter == "\x08":
                self.x = max(0, self.x - 1)
            elif letter >= " ":
                if self.x >= self.columns:
                    self.x = 0
                    self._down()
                line = self.lines[self.y]
                line.extend(" " * (self.x + 1 - len(line)))
                line[self.x] = letter
                self.x += 1

    def _down(self) -> None:
        if self.y == self.rows - 1:
            self.scrolled.append("".join(self.lines.pop(0)).rstrip())
            self.lines.append([])
        else:
            self.y += 1

    def _control(self, given: str, what: str) -> None:
        if what == "m":
            self.style = "" if given in ("", "0") else given
        elif what == "A":
            self.y = max(0, self.y - int(given or 1))
        elif what == "K":
            del self.lines[self.y][self.x :]
        elif what == "J":
            first = 0 if given == "2" else self.y
            if given != "2":
                del self.lines[self.y][self.x :]
                first += 1
            for row in range(first, self.rows):
                self.lines[row] = []
        elif what == "H":
            self.x = self.y = 0
        elif given.startswith("?"):
            if given == "?25":
                self.hidden = what == "l"
            elif given in ("?1049", "?47"):
                self.alternate = what == "h"
        else:
            raise AssertionError(f"unknown control {given!r} {what!r}")

    @property
    def screen(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.lines]

    @property
    def text(self) -> str:
        return "\n".join([*self.scrolled, *self.screen])


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, command: list[str], columns: int, rows: int, env: dict[str, str]) -> None:
        self.emulator = Emulator(columns, rows)
        self.raw = ""
        self.child = pexpect.spawn(
            command[0], command[1:], env=env, encoding="utf-8", timeout=20, echo=False,
            dimensions=(rows, columns),
        )  # fmt: skip
        self.modes = termios.tcgetattr(self.child.child_fd)

    def read(self) -> None:
        while True:
            try:
                text = self.child.read_nonblocking(1 << 16, timeout=0)
            except (pexpect.TIMEOUT, pexpect.EOF):
                return
            self.raw += text
            self.emulator.feed(text)

    def wait(self, *words: str, deadline: float = 15.0) -> str:
        """The screen, once it shows all the words."""

        def seen() -> bool:
            self.read()
            text = "\n".join(self.emulator.screen)
            assert all(word in text for word in words), f"{words} not in\n{text}"
            return True

        wait_until(seen, deadline)
        return "\n".join(self.emulator.screen)

    def go(self) -> None:
        self.child.sendline("")

    def resize(self, columns: int, rows: int) -> None:
        self.child.setwinsize(rows, columns)
        old, self.emulator = self.emulator, Emulator(columns, rows)
        # As a terminal does: what was there is cut to the new size, the cursor stays on its line.
        kept = old.lines[max(0, old.y - rows + 1) :][:rows]
        self.emulator.lines[: len(kept)] = [line[:columns] for line in kept]
        self.emulator.y = min(old.y, rows - 1)

    def end(self, deadline: float = 15.0) -> int:
        """Its exit status, a signal as a negative number, once it has ended."""

        def ended() -> bool:
            self.read()
            return not self.child.isalive()

        wait_until(ended, deadline)
        self.read()
        return -self.child.signalstatus if self.child.signalstatus else int(self.child.exitstatus or 0)

    def is_sane(self) -> None:
        """The terminal is as it was found, the cursor at the beginning of a line below everything."""
        emulator = self.emulator
        assert not emulator.hidden and not emulator.alternate and not emulator.style
        assert emulator.x == 0
        assert not any("".join(line).strip() for line in emulator.lines[emulator.y :])


Start = Callable[..., Terminal]


@pytest.fixture
def start() -> Iterator[Start]:
    """``start(code, columns, rows)``: HEAD and then the code, on a terminal."""
    begun: list[Terminal] = []

    def start(code: str, columns: int = 100, rows: int = 24, shell: bool = False, **env: str) -> Terminal:
        base = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        command = [sys.executable, "-c", HEAD + code, str(SUPERVISOR)]
        base |= {"TERM": "xterm", "PYTHONUTF8": "1", **env}
        if shell:  # an interactive one, which knows jobs and runs the program when it is told "p"
            base |= {"PROGRAM": shlex.join(command), "PS1": "PROMPT "}
            command = ["bash", "--norc", "--noediting", "-i"]
        terminal = Terminal(command, columns, rows, base)
        begun.append(terminal)
        return terminal

    try:
        yield start
    finally:
        for terminal in begun:
            terminal.child.close(force=True)


LIVE = """
m.start_monitoring()
m.start_step("fetch"); m.start_step("compile")
m.update_step_progress("compile", progress=0.4, message="half of it")
ask()
m.complete_step("fetch", tokens=1200, cost=0.01)
m.complete_step("compile", success=False, error="exit status 2")
m.complete_step("link", cancelled_because="compile failed")
ask()
m.stop_monitoring()
m.print_final_summary()
"""


@pytest.mark.parametrize(("columns", "rows"), [(140, 40), (80, 24), (40, 20)])
def test_the_table_is_drawn_at_once_on_every_change_and_stays_when_it_ends(
    start: Start, columns: int, rows: int
) -> None:
    terminal = start(LIVE, columns, rows)
    text = terminal.wait("Progress: 0/3 (0 %)", "⟳ Running 40 %", "○ Pending")
    assert text.count("⟳ Running") == 2
    assert "half of it" in text
    terminal.go()
    terminal.wait("Progress: 3/3 (100 %)", "✓ Completed", "✗ Failed", deadline=1.5)  # not only by the 2 s tick
    terminal.go()
    assert terminal.end() == 0
    terminal.is_sane()
    text = terminal.emulator.text
    assert text.count("Plan: demo") == 1 and text.count("Progress: ") == 1
    assert "Root failure: compile" in text
    assert terminal.modes == termios.tcgetattr(terminal.child.child_fd)


def test_time_goes_on_though_nothing_changes(start: Start) -> None:
    terminal = start("m.start_monitoring()\nm.start_step('fetch')\nask()\n")
    terminal.wait("Elapsed: 0.")
    terminal.wait("Elapsed: 2.", deadline=4)
    terminal.wait("Elapsed: 4.", "Left: about ", deadline=4)


def test_a_flood_of_changes_is_drawn_ten_times_a_second_at_most(start: Start) -> None:
    terminal = start(
        "m.start_monitoring()\nbegan = time.monotonic()\nm.start_step('fetch')\n"
        "while (past := time.monotonic() - began) < 1.5:\n    m.update_step_progress('fetch', progress=past / 2)\n"
        "m.complete_step('fetch')\nm.stop_monitoring()\n"
    )
    assert terminal.end() == 0
    assert 5 <= terminal.raw.count("Plan: demo") <= 20


PRINTS = """
import logging
logging.basicConfig(format="logged %(message)s")
m.start_monitoring()
m.start_step("fetch")
for number in range(30):
    print("print", number)
    print("error", number, file=sys.stderr)
    logging.error("%d", number)
    m.update_step_progress("fetch", progress=number / 30)
    if number % 3 == 0:
        time.sleep(0.02)
print("half a ", end="")
print("line")
print("a prompt:", end=" ", flush=True)
print("x" * 250)
ask()
print("unfinished", end="")
m.stop_monitoring()
print(" business")
assert sys.stdout is sys.__stdout__ and sys.stderr is sys.__stderr__
assert logging.getLogger().handlers[0].stream is sys.__stderr__
"""


def test_prints_of_the_program_do_not_tear_the_table(start: Start) -> None:
    terminal = start(PRINTS, 100, 24)
    terminal.wait("x" * 100, "Plan: demo", "○ Pending", "⟳ Running 96 %")
    terminal.go()
    assert terminal.end() == 0
    lines = terminal.emulator.text.splitlines()
    for number in range(30):
        for word in ("print", "error", "logged"):
            assert lines.count(f"{word} {number}") == 1
    assert "half a line" in lines and "a prompt:" in lines and "unfinished business" in lines
    assert sum(line.startswith("Plan: demo") for line in lines) == 1, "\n".join(lines)
    assert sum("⟳ Running" in line or "✓" in line for line in lines) == 1
    terminal.is_sane()


def test_what_goes_to_a_file_is_left_alone(start: Start, tmp_path: Path) -> None:
    terminal = start(
        f"sys.stdout = open({str(tmp_path / 'out')!r}, 'w')\nm = ExecutionMonitor('demo', output=sys.__stdout__)\n"
        "m.add_step('a')\nm.start_monitoring()\nprint('to the file')\nprint('seen', file=sys.stderr)\n"
        "time.sleep(0.3)\nm.stop_monitoring()\nsys.stdout.close()\n"
    )
    assert terminal.end() == 0
    assert (tmp_path / "out").read_text() == "to the file\n"
    assert "seen" in terminal.emulator.text and "to the file" not in terminal.emulator.text


def test_a_resize_is_followed_without_a_signal_handler(start: Start) -> None:
    terminal = start(
        "import signal\nm.start_monitoring()\nm.start_step('compile')\n"
        "assert signal.getsignal(signal.SIGWINCH) == signal.SIG_DFL\nask()\n",
        120,
        30,
    )
    terminal.wait("Provider", "⟳ Running")
    for columns, rows in ((44, 16), (20, 8), (120, 30)):
        terminal.resize(columns, rows)
        terminal.raw = ""

        def drawn(columns: int = columns) -> bool:
            terminal.read()
            text = "\n".join(terminal.emulator.screen)
            assert "Plan: demo" in text and text.count("Progress: ") == 1, text
            assert ("Provider" in text) == (columns > 100), text
            return True

        wait_until(drawn, 5)


def test_a_program_that_is_killed_leaves_the_terminal_usable(start: Start) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP):
        terminal = start("m.start_monitoring()\nm.start_step('fetch')\nask()\n")
        terminal.wait("⟳ Running")
        terminal.child.kill(number)
        assert terminal.end() == -number
        terminal.is_sane()
        assert terminal.modes == termios.tcgetattr(terminal.child.child_fd)


def test_ctrl_c_and_exceptions_leave_the_last_table_and_the_traceback(start: Start) -> None:
    terminal = start("m.start_monitoring()\nm.start_step('fetch')\nraise RuntimeError('broken')\n")
    assert terminal.end() == 1
    terminal.is_sane()
    text = terminal.emulator.text
    assert "RuntimeError: broken" in text and text.count("Plan: demo") == 1 and "⟳ Running" in text
    terminal = start("with m:\n    m.start_step('fetch')\n    ask()\n")
    terminal.wait("⟳ Running")
    terminal.child.sendintr()
    assert terminal.end() == -signal.SIGINT
    terminal.is_sane()
    assert "KeyboardInterrupt" in terminal.emulator.text


def test_a_job_that_is_stopped_draws_nothing_over_the_shell(start: Start) -> None:
    terminal = start("m.start_monitoring()\nm.start_step('fetch')\ntime.sleep(60)\n", shell=True)
    terminal.wait("PROMPT")
    terminal.child.sendline('eval "$PROGRAM"')
    terminal.wait("⟳ Running")
    terminal.child.sendcontrol("z")
    terminal.wait("Stopped")
    terminal.child.sendline("bg; echo in the sh''ell")
    terminal.wait("in the shell")
    # It runs again, and a table is due in 2 s; none comes, for the shell has the terminal.
    with pytest.raises(AssertionError):
        terminal.wait("Elapsed: 4", deadline=5)
    terminal.child.sendline("fg")
    terminal.wait("⟳ Running", deadline=5)
    terminal.child.sendintr()
    terminal.wait("KeyboardInterrupt")
    assert "in the shell" in terminal.emulator.text
    terminal.child.sendline("exit")
    terminal.end()


def test_ten_thousand_steps_fit_and_cost_little(start: Start) -> None:
    terminal = start(
        "m = ExecutionMonitor('big')\nfor n in range(10000): m.add_step(f's{n:05d}', 'analysis', 'groq', 'a step')\n"
        "m.start_monitoring()\ncpu = time.process_time()\nbegan = time.monotonic()\n"
        "for n in range(3): m.start_step(f's{n:05d}')\n"
        "while (past := time.monotonic() - began) < 2:\n    m.update_step_progress('s00001', tokens=int(past * 1e6))\n"
        "    time.sleep(0.01)\n"
        "cpu = time.process_time() - cpu\nm.stop_monitoring()\nprint('cpu', cpu)\n",
        80,
        24,
    )
    assert terminal.end() == 0
    text = terminal.emulator.text
    assert "Progress: 0/10,000 (0 %)" in text and "… and 9,98" in text and text.count("⟳ Running") == 3
    found = re.search(r"cpu ([\d.]+)", text)
    assert found and float(found[1]) < 0.6, "about 20 redraws and 200 changes in 2 s"


def test_no_color_moves_the_cursor_and_colours_nothing(start: Start) -> None:
    terminal = start(LIVE, NO_COLOR="1")
    terminal.wait("⟳ Running")
    terminal.go()
    terminal.go()
    assert terminal.end() == 0
    assert "\x1b[" in terminal.raw and not re.search(r"\x1b\[[\d;]*m", terminal.raw)


@pytest.mark.parametrize(("variable", "value"), [("TERM", "dumb"), ("TERM", "")])
def test_a_dumb_terminal_gets_plain_lines(start: Start, variable: str, value: str) -> None:
    terminal = start(LIVE, **{variable: value})
    terminal.go()
    terminal.go()
    assert terminal.end() == 0
    assert "\x1b" not in terminal.raw and "compile failed" in terminal.raw


def test_an_encoding_without_marks_gets_ascii(start: Start) -> None:
    terminal = start(LIVE, PYTHONUTF8="0", PYTHONIOENCODING="ascii", LC_ALL="C")
    terminal.wait("> Running", "o Pending")
    terminal.go()
    terminal.wait("x Failed")
    terminal.go()
    assert terminal.end() == 0
    assert terminal.raw.isascii()


def test_coroutines_and_threads_share_one_monitor(start: Start) -> None:
    terminal = start(
        "import asyncio\n"
        "async def one(n):\n"
        "    m.add_step(f'co{n}'); m.start_step(f'co{n}'); await asyncio.sleep(0.05); print('from', n)\n"
        "    await asyncio.to_thread(m.complete_step, f'co{n}', tokens=1)\n"
        "async def main():\n"
        "    await asyncio.gather(*(one(n) for n in range(20)))\n"
        "with m:\n    asyncio.run(main())\nassert m.state.totals.completed == 20\n",
        100,
        60,
    )
    assert terminal.end() == 0
    text = terminal.emulator.text
    assert text.count("✓ Completed") == 20 and len(re.findall(r"^from \d+$", text, re.M)) == 20


def test_a_fork_of_the_program_ends_without_touching_the_table(start: Start) -> None:
    terminal = start(
        "import os\nm.start_monitoring()\nm.start_step('fetch')\ntime.sleep(0.3)\npid = os.fork()\n"
        "if pid == 0:\n    m.stop_monitoring()\n    os._exit(0)\nos.waitpid(pid, 0)\n"
        "m.complete_step('fetch')\nm.stop_monitoring()\n"
    )
    assert terminal.end() == 0
    text = terminal.emulator.text
    assert text.count("Plan: demo") == 1 and "✓ Completed" in text


def test_a_reader_that_stalls_holds_no_step_up(tmp_path: Path) -> None:
    """Only the end waits for it, and what it reads then is all of it."""
    from helpers.procs import spawn

    code = HEAD + (
        "m = ExecutionMonitor('p', progress='json')\n"
        "for n in range(3000): m.add_step(f's{n}', description='x' * 50)\n"
        "m.start_monitoring()\n"
        "for n in range(3000): m.start_step(f's{n}'); m.complete_step(f's{n}')\n"
        "sys.stderr.write('done\\n'); sys.stderr.flush()\nm.stop_monitoring()\n"
    )
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.argv = ['x', {str(SUPERVISOR)!r}]\n{code}")
    reading, writing = os.pipe()
    try:
        with spawn(sys.executable, str(script), stdout=writing) as child:
            os.close(writing)
            writing = -1
            child.wait_line("done", stream="err")
            lines = 0
            while data := os.read(reading, 1 << 16):
                lines += data.count(b"\n")
            assert child.wait() == 0
            assert lines == 6002
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
