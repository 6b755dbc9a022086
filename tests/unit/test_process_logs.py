"""The process API's events in standard logging, structlog and functions; no secret in any of them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from safesh.model import Record
from safesh.process import logs
from safesh.process.errors import CommandTimeout, InvalidCommand
from safesh.process.logs import EventLogger, JsonFormatter, adapt
from safesh.process.secure_env import SecureEnv

EVENTS = (
    "process_started",
    "process_ended",
    "process_timed_out",
    "process_limit_warning",
    "process_limit_exceeded",
    "callback_failed",
    "process_leftovers",
)
ENDED: dict[str, Any] = {
    "run_id": "r1",
    "pid": 12,
    "command": ["sleep", "1 s"],
    "mode": "blocking",
    "return_code": 3,
    "signal": None,
    "execution_time": 1.2345,
    "timed_out": False,
    "error": None,
    "usage": {"cpu_seconds": 0.5, "peak_memory_bytes": 1024},
}


class Kept(logging.Handler):
    """Keeps records, and what they look like as lines of text and of JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        plain = logging.Formatter("%(levelname)s %(name)s %(message)s %(safesh)s", defaults={"safesh": ""})
        self.text += plain.format(record) + "\n" + JsonFormatter().format(record) + "\n"


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def logger(kept: Kept, request: pytest.FixtureRequest) -> Iterator[logging.Logger]:
    one = logging.getLogger(f"test.{request.node.name}")
    one.propagate = False
    one.setLevel(logging.DEBUG)
    one.addHandler(kept)
    yield one
    one.removeHandler(kept)


# --- standard logging ---


def test_a_record_has_a_line_for_people_and_the_fields_under_one_name(logger: logging.Logger, kept: Kept) -> None:
    adapt(logger).emit("process_ended", "warning", **ENDED)
    (record,) = kept.records
    assert record.getMessage() == "ended: sleep '1 s' (pid 12) with code 3 after 1.23 s"
    assert record.levelno == logging.WARNING
    assert vars(record)["safesh"] == {"event": "process_ended", **ENDED}


@pytest.mark.parametrize(
    ("event", "fields", "message"),
    [
        ("process_started", {"pid": 5, "command": ["a"], "mode": "background"}, "started: a (pid 5)"),
        ("process_ended", {"signal": "SIGKILL", "return_code": -9}, "ended by SIGKILL"),
        ("process_ended", {"signal": 9}, "ended by signal 9"),
        ("process_ended", {"signal": signal.SIGTERM, "command": "a b"}, "ended: a b by SIGTERM"),
        ("process_timed_out", {"pid": 5, "error": TimeoutError("late")}, "timed out (pid 5) - TimeoutError: late"),
        (
            "process_limit_warning",
            {"name": "memory", "used": 9, "most": 10},
            "near its limit name=memory used=9 most=10",
        ),
        ("process_limit_exceeded", {"error": "memory"}, "over its limit - memory"),
        ("callback_failed", {"callback": "f", "error": "E: x"}, "callback failed callback=f - E: x"),
        ("process_leftovers", {"survivors": [], "killed": 2}, "left processes behind killed=2"),
        ("something_new", {}, "something new"),
    ],
)
def test_each_event_is_told_in_one_line(
    logger: logging.Logger, kept: Kept, event: str, fields: dict[str, Any], message: str
) -> None:
    adapt(logger).emit(event, **fields)
    assert kept.records[0].getMessage() == message


def test_no_logger_is_the_one_named_after_the_room(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="safesh.process"):
        adapt().emit("process_started", pid=1)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("safesh.process", "started (pid 1)")]


def test_no_field_collides_with_a_records_own(logger: logging.Logger, kept: Kept) -> None:
    taken = {name: "x" for name in vars(logging.makeLogRecord({})) if name != "event"} | {
        "message": "m",
        "asctime": "a",
    }
    adapt(logger).emit("process_started", **taken)
    assert kept.records[0].name == logger.name
    assert vars(kept.records[0])["safesh"]["name"] == "x"


def test_an_adapter_keeps_its_own_extra_and_prefix(logger: logging.Logger, kept: Kept) -> None:
    class Prefix(logging.LoggerAdapter[Any]):
        def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
            return f"[arm] {msg}", kwargs

    inner = logging.LoggerAdapter(logger, {"request": 7})
    adapt(Prefix(inner, {})).emit("process_started", pid=1)
    (record,) = kept.records
    assert record.getMessage() == "[arm] started (pid 1)"
    assert vars(record)["request"] == 7
    assert vars(record)["safesh"] == {"event": "process_started", "pid": 1}


def test_a_percent_sign_in_a_command_is_no_format(logger: logging.Logger, kept: Kept) -> None:
    adapt(logger).emit("process_started", command=["date", "+%s", "%d%%"])
    assert "date +%s %d%%" in kept.records[0].getMessage()


def test_a_command_writes_no_lines_and_steers_no_terminal(logger: logging.Logger, kept: Kept) -> None:
    adapt(logger).emit("process_started", command=["a\nERROR forged", "\x1b[2J\udcff\u2028"], error="x\ry")
    message = kept.records[0].getMessage()
    assert message.isprintable()
    assert "a\\nERROR forged" in message
    assert "\\x1b[2J\\udcff\\u2028" in message


def test_a_long_command_is_cut_in_the_line_and_whole_in_the_fields(logger: logging.Logger, kept: Kept) -> None:
    adapt(logger).emit("process_started", pid=3, command=["echo", "x" * 5000])
    assert len(kept.records[0].getMessage()) < 250
    assert kept.records[0].getMessage().endswith("... (pid 3)")
    assert vars(kept.records[0])["safesh"]["command"] == ["echo", "x" * 5000]


class Told:
    """Counts how often it becomes text."""

    times = 0

    def __str__(self) -> str:
        self.times += 1
        return "told"


def test_nothing_is_formatted_below_the_level(logger: logging.Logger, kept: Kept) -> None:
    logger.setLevel(logging.WARNING)
    calls: list[str] = []
    one = Told()
    telling = adapt(logger).with_redactor(lambda text: calls.append(text) or text)
    telling.emit("process_started", "info", error=one, command=["x"])
    telling.emit("process_started", "debug", error=one)
    assert (kept.records, calls, one.times) == ([], [], 0)
    telling.emit("process_ended", "error", error=one)
    assert (len(kept.records), calls, one.times) == (1, ["told"], 1)


# --- structlog ---


@pytest.fixture
def structlog() -> Iterator[Any]:
    module = pytest.importorskip("structlog")
    yield module
    module.reset_defaults()


def test_structlog_gets_the_event_and_keywords(structlog: Any) -> None:
    with structlog.testing.capture_logs() as found:
        adapt(structlog.get_logger().bind(robot="arm")).emit("process_ended", "warning", **ENDED)
    assert found == [{"event": "process_ended", "log_level": "warning", "robot": "arm", **ENDED}]


def test_a_lazy_structlog_logger_follows_a_later_configuration(structlog: Any) -> None:
    telling = adapt(structlog.get_logger())
    out = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    telling.emit("process_ended", **ENDED)
    assert json.loads(out.getvalue()) == {"event": "process_ended", "level": "info", **ENDED}


def test_structlog_formats_nothing_below_its_level(structlog: Any) -> None:
    out = io.StringIO()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(out),
    )
    telling = adapt(structlog.get_logger())
    one = Told()
    telling.emit("process_started", error=one)
    assert (out.getvalue(), one.times) == ("", 0)
    telling.emit("process_ended", "error", pid=1)
    assert "process_ended" in out.getvalue()


def test_structlog_over_standard_logging_collides_with_nothing(
    structlog: Any, logger: logging.Logger, kept: Kept
) -> None:
    structlog.configure(
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.filter_by_level, structlog.stdlib.render_to_log_kwargs],
    )
    telling = adapt(structlog.wrap_logger(logger))
    telling.emit("process_limit_warning", "warning", name="memory", exc_info="x", extra=1, pid=4)
    (record,) = kept.records
    assert (record.getMessage(), vars(record)["name_"], vars(record)["pid"]) == ("process_limit_warning", "memory", 4)
    logger.setLevel(logging.ERROR)
    one = Told()
    telling.emit("process_started", error=one)
    assert (len(kept.records), one.times) == (1, 0)


def test_an_asynchronous_structlog_logger_is_told_from_any_thread(
    structlog: Any, logger: logging.Logger, kept: Kept
) -> None:
    structlog.configure(
        wrapper_class=structlog.stdlib.AsyncBoundLogger, processors=[structlog.stdlib.render_to_log_kwargs]
    )

    async def bind() -> Any:
        return structlog.wrap_logger(logger).bind()

    bound = asyncio.run(bind())
    thread = threading.Thread(target=adapt(bound).emit, args=("process_started",), kwargs={"pid": 1})
    thread.start()
    thread.join(10)
    assert vars(kept.records[0])["pid"] == 1


def test_structlogs_plain_logger_is_not_mistaken_for_one_with_levels(structlog: Any) -> None:
    said: list[tuple[Any, ...]] = []

    class Odd:
        """Every attribute is a way to log."""

        def __getattr__(self, name: str) -> Any:
            return lambda *a, **k: said.append((name, a, k))

    structlog.configure(wrapper_class=structlog.BoundLogger, processors=[lambda _l, _m, event: ((), event)])
    adapt(structlog.wrap_logger(Odd())).emit("process_started", pid=1)
    assert said == [("info", (), {"event": "process_started", "pid": 1})]


# --- functions, and what is no logger ---


def test_a_function_gets_the_event_and_a_dict_of_its_own() -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    adapt(lambda event, fields: said.append((event, fields))).emit("process_ended", "debug", **ENDED)
    assert said == [("process_ended", ENDED)]
    assert said[0][1]["usage"] is not ENDED["usage"]


def test_an_adapted_logger_stays_as_it_is() -> None:
    telling = adapt()
    assert adapt(telling) is telling


def test_what_is_no_logger_is_refused_by_name() -> None:
    wrong: Any = "safesh"
    with pytest.raises(InvalidCommand, match="got str") as caught:
        adapt(wrong)
    assert caught.value.place == "logger"


# --- what a logger raises ---


def broken_function(event: str, fields: dict[str, Any]) -> None:
    raise RuntimeError("hunter2")


class BrokenBound:
    def bind(self, **fields: Any) -> BrokenBound:
        return self

    def info(self, event: str, **fields: Any) -> None:
        raise RuntimeError("hunter2")


class BrokenFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("hunter2")


def broken_logger() -> logging.Logger:
    one = logging.Logger("broken")
    one.addFilter(BrokenFilter())
    return one


@pytest.mark.parametrize("make", [lambda: broken_function, BrokenBound, broken_logger])
def test_a_logger_that_raises_breaks_nothing_and_is_told_once(make: Any, capfd: pytest.CaptureFixture[str]) -> None:
    telling = adapt(make())
    for _ in range(3):
        telling.emit("process_started", pid=1)
        telling.with_redactor(str.upper).emit("process_ended", pid=1)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("safesh: the logger raised RuntimeError at process_started in ")
    assert "test_process_logs.py" in line
    assert "hunter2" not in line


def test_a_logger_that_raises_is_not_told_where_logging_is_told_not_to(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    adapt(broken_function).emit("process_started")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_a_logger_that_raises_breaks_nothing_without_standard_error(
    monkeypatch: pytest.MonkeyPatch, stderr: str | None
) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stderr else None)
    adapt(broken_function).emit("process_started")


def test_a_redactor_that_raises_lets_nothing_out(
    logger: logging.Logger, kept: Kept, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(text: str) -> str:
        raise RuntimeError(text)

    adapt(logger).with_redactor(broken).emit("process_started", error="hunter2")
    assert not kept.records
    assert "hunter2" not in capfd.readouterr().err


def test_an_interrupt_in_a_logger_is_not_swallowed() -> None:
    def interrupted(event: str, fields: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(interrupted).emit("process_started")


# --- what fields become ---


class Color(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    deep: list[bytes]


class Pair(NamedTuple):
    left: str
    right: float


class Noun(Record):
    name: str
    count: int = 0


def fields_of(**fields: Any) -> dict[str, Any]:
    said: list[dict[str, Any]] = []
    adapt(lambda _, fields: said.append(fields)).emit("process_ended", **fields)
    return said[0]


def test_fields_become_plain_data() -> None:
    found = fields_of(
        mode=Color.RED, signal=signal.SIGKILL, cwd=Path("/tmp/x"), data=b"\xffa", point=Point(1, [b"b"]),
        pair=Pair("a", float("nan")), noun=Noun(name="n"), error=CommandTimeout("late", place="sleep"),
        items=(1, {2}), keys={1: "x", b"y": None}, yes=True, inf=float("inf"),
    )  # fmt: skip
    assert found == {
        "mode": "red", "signal": "SIGKILL", "cwd": "/tmp/x", "data": "\ufffda", "point": {"x": 1, "deep": ["b"]},
        "pair": {"left": "a", "right": None}, "noun": {"name": "n", "count": 0}, "error": "CommandTimeout: sleep: late",
        "items": [1, [2]], "keys": {"1": "x", "y": None}, "yes": True, "inf": None,
    }  # fmt: skip


def test_fields_that_hold_themselves_end() -> None:
    loop: list[Any] = []
    loop.append(loop)
    json.dumps(fields_of(loop=loop))


# --- secrets ---

PLACES: dict[str, Any] = {
    "command": ["curl", "-H", "Authorization: hunter2", b"hunter2", Path("/x/hunter2")],
    "error": ValueError("bad hunter2"),
    "output": b"..hunter2..",
    "usage": {"hunter2": [{"deep": ("hunter2", Pair("hunter2", 1), Point(1, [b"hunter2"]), Noun(name="hunter2"))}]},
    "odd": type("Odd", (), {"__str__": lambda _: "odd hunter2"})(),
}


@pytest.fixture
def env() -> SecureEnv:
    return SecureEnv(values={"API_TOKEN": "hunter2"}, source={})


@pytest.mark.parametrize("event", EVENTS)
def test_no_secret_is_in_any_output_of_standard_logging(
    logger: logging.Logger, kept: Kept, env: SecureEnv, event: str
) -> None:
    adapt(logger).with_redactor(env.redact).emit(event, "error", **PLACES)
    adapt(logging.LoggerAdapter(logger, {})).with_redactor(env.redact).emit(event, **PLACES)
    assert len(kept.records) == 2
    assert kept.text.count("***") > 20
    assert "hunter2" not in kept.text + repr([vars(record) for record in kept.records])


@pytest.mark.parametrize("renderer", ["JSONRenderer", "KeyValueRenderer", "LogfmtRenderer", "console"])
def test_no_secret_is_in_any_output_of_structlog(structlog: Any, env: SecureEnv, renderer: str) -> None:
    out = io.StringIO()
    made = structlog.dev.ConsoleRenderer() if renderer == "console" else getattr(structlog.processors, renderer)()
    structlog.configure(processors=[made], logger_factory=structlog.PrintLoggerFactory(out))
    telling = adapt(structlog.get_logger()).with_redactor(env.redact)
    for event in EVENTS:
        telling.emit(event, "error", **PLACES)
    assert out.getvalue().count("***") > 20
    assert "hunter2" not in out.getvalue()


def test_no_secret_reaches_a_function(env: SecureEnv) -> None:
    said: list[Any] = []
    adapt(lambda *told: said.append(told)).with_redactor(env.redact).emit("process_ended", **PLACES)
    assert "***" in repr(said)
    assert "hunter2" not in repr(said)


def test_redactors_add_up_and_none_changes_nothing() -> None:
    said: list[dict[str, Any]] = []
    telling: EventLogger = adapt(lambda _, fields: said.append(fields))
    both = telling.with_redactor(lambda text: text.replace("a", "-")).with_redactor(lambda text: text.replace("b", "+"))
    both.with_redactor(None).emit("process_ended", error="abc")
    telling.emit("process_ended", error="abc")
    assert said == [{"error": "-+c"}, {"error": "abc"}]


# --- JSON ---


@pytest.fixture
def lines(logger: logging.Logger) -> Iterator[io.StringIO]:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    yield out
    logger.removeHandler(handler)


def test_a_json_line_has_the_fields_beside_time_and_level(logger: logging.Logger, lines: io.StringIO) -> None:
    adapt(logger).emit("process_ended", "warning", **{**ENDED, "error": "two\nlines \udcff\u2028", "inf": float("inf")})
    (line,) = lines.getvalue().splitlines()
    found = json.loads(line)
    assert datetime.fromisoformat(found.pop("time")).utcoffset() is not None
    assert found.pop("message").startswith("ended: sleep '1 s' (pid 12) with code 3")
    assert found == {
        "level": "warning", "logger": logger.name, "event": "process_ended", **ENDED,
        "error": "two\nlines \udcff\u2028", "inf": None,
    }  # fmt: skip


def test_a_json_line_keeps_both_of_two_with_one_name(logger: logging.Logger, lines: io.StringIO) -> None:
    adapt(logging.LoggerAdapter(logger, {"pid": 9, "request": object})).emit(
        "process_ended", pid=1, time=5, message="m"
    )
    found = json.loads(lines.getvalue())
    assert (found["pid"], found["pid_"], found["time_"], found["message_"]) == (1, 9, 5, "m")
    assert found["message"] == "ended (pid 1) time=5 message=m"
    assert found["request"] == "<class 'object'>"


def test_records_of_others_become_json_lines_too(logger: logging.Logger, lines: io.StringIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("it %s", "failed", stack_info=True, extra={"safesh": "not ours"})
    (line,) = lines.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == "it failed"
    assert found["exception"].endswith("ValueError: why")
    assert found["stack"].startswith("Stack")


def test_the_json_formatter_redacts_what_others_say(logger: logging.Logger, env: SecureEnv) -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter(redact=env.redact))
    logger.addHandler(handler)
    try:
        try:
            raise ValueError("hunter2")
        except ValueError:
            logger.exception("hunter2", extra={"a": ["hunter2"]})
    finally:
        logger.removeHandler(handler)
    assert out.getvalue().count("***") >= 3
    assert "hunter2" not in out.getvalue()


def test_a_redactor_that_would_be_ignored_is_refused(env: SecureEnv) -> None:
    misplaced: Any = env.redact
    with pytest.raises(InvalidCommand, match="by name"):
        JsonFormatter(misplaced)


CONFIGURED = """
import logging.config, sys
logging.config.dictConfig({
    "version": 1,
    "formatters": {"json": {"class": "safesh.process.logs.JsonFormatter"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "json"}},
    "loggers": {"safesh": {"handlers": ["out"], "level": "INFO"}},
})
from safesh.process.logs import adapt
adapt().emit("process_started", pid=1)
sys.exit("structlog" in sys.modules)
"""


def test_the_json_formatter_can_be_named_in_a_configuration() -> None:
    # In a process of its own: dictConfig closes every handler there is, pytest's too.
    done = subprocess.run(
        [sys.executable, "-c", CONFIGURED],
        cwd=Path(logs.__file__).parents[2], capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    assert json.loads(done.stdout)["pid"] == 1
