"""Properties of what others say to us: reports of steps, requests, datagrams, answers, /proc, and what we tell on."""

from __future__ import annotations

import json
import math
import socket
from typing import Any

from faults.fuzz_box import Box, require
from faults.fuzz_target import Target
from safesh import printable, wire
from safesh._platform import linux, probe
from safesh.dashboard import planfolders
from safesh.errors import StateError
from safesh.metrics import exposition
from safesh.model import Probe, TargetSpec
from safesh.plan import journal, past_times, resume, summary, table, timeline
from safesh.plan.model import PlanSpec, StepSpec
from safesh.plan.report import LONGEST, ReportReader
from safesh.plan.state import PlanState
from safesh.plan.text import Look
from safesh.supervise import control, requests
from safesh.supervise.notify_socket import NotifySocket
from safesh.supervise.probe_http import Answer

_JSON = (
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"Infinity", b"-Infinity", b"-1", b"1e308",
    b"0", b"9" * 19, b"9" * 400, b"1e999", b"\\ud800", b"\\u001b[31m", b"\n", b"\0", b"\xff", b"[" * 2000,
    b'{"a":' * 500,
    b"x" * 70000,
)  # fmt: skip


def check_reports(box: Box, data: bytes) -> bool:
    """What a step told is in range, and the same however its bytes come; a bad line is counted with its reason."""
    path = box.write("report", b"")
    parts = ReportReader(path)
    told: dict[str, Any] = {}
    step = max(1, len(data) // 7)
    with open(path, "ab", buffering=0) as file:
        for at in range(0, len(data), step):
            file.write(data[at : at + step])
            told |= parts.read()
    told |= parts.read(final=True)
    whole = ReportReader(path)
    again = whole.read(final=True)
    parts.close()
    whole.close()
    require(told == again, f"{told} in parts, {again} at once")
    require((parts.lines, parts.bad) == (whole.lines, whole.bad), "counted otherwise in parts than at once")
    require(bool(whole.bad) == bool(whole.reason), "a bad line without a reason")
    require(len(whole.reason) < 300, f"a reason of {len(whole.reason)} characters")
    lines = [line for line in data.split(b"\n") if line.strip()]
    require(whole.lines + whole.bad == len(lines), f"{whole.lines} and {whole.bad} of {len(lines)} lines")
    good = sum(1 for line in lines if len(line) < LONGEST and _is_report(line))
    require(whole.lines <= good, f"{whole.lines} lines taken, {good} are JSON objects")
    require(0 <= told.get("tokens", 0) < 1 << 63 and isinstance(told.get("tokens", 0), int), "tokens out of range")
    require(0 <= told.get("cost", 0) < math.inf and 0 <= told.get("progress", 0) <= 1, "a number out of range")
    require(isinstance(told.get("message", ""), str), "a message that is no text")
    return bool(whole.lines)


def _is_report(line: bytes) -> bool:
    """By the standard library's word."""
    try:
        return isinstance(json.loads(line.decode()), dict)
    except (ValueError, RecursionError):
        return False


def check_requests(box: Box, data: bytes) -> bool:
    """The supervisor's end of a connection: whole requests or the end of it, and what it is asked is checked."""
    here, there = socket.socketpair()
    try:
        there.setblocking(False)
        client = control.Client(there)
        more, found = True, []
        for at in range(0, len(data), 50_000):
            if not more:
                break
            here.sendall(data[at : at + 50_000])
            some, more = client.requests()
            found += some
        for request in found:
            require(isinstance(request, dict), "a request that is no object")
            grace = requests.grace_of(request, 5.0)
            require(0 <= grace < math.inf and isinstance(grace, float), f"a grace of {grace!r}")
            spec = requests.spec_of(request.get("spec"))
            if spec is not None:
                require(TargetSpec.from_dict(wire.loads(wire.dumps(spec.to_dict()))) == spec, "another spec")
    finally:
        here.close()
        there.close()
    return bool(found)


def check_answers(box: Box, data: bytes) -> bool:
    """The asking end: an answer that is an object, the end of the talk, or a ValueError, which means no answer."""
    here, there = socket.socketpair()
    try:
        here.setblocking(False)
        try:
            here.send(data[:100_000])
        except BlockingIOError:
            pass
        here.close()
        talk = control.Conversation(there)
        count = 0
        try:
            while (answer := talk.answer(1.0)) is not None:
                require(isinstance(answer, dict), f"an answer that is no object: {answer!r}")
                count += 1
        except ValueError:
            pass
    finally:
        here.close()
        there.close()
    return count > 0


class _Listener:
    """Stands in for the supervisor of a NotifySocket."""

    def __init__(self) -> None:
        self.record: dict[str, Any] = {"cgroup": ""}
        self.state = "running"
        self.journal = self
        self.told: list[tuple[str, dict[str, Any]]] = []

    def event(self, name: str, **details: Any) -> None:
        self.told.append((name, details))


def check_datagrams(box: Box, data: bytes) -> bool:
    """sd_notify: nothing said is believed beyond its range; what is kept can be shown and written down."""
    supervisor = _Listener()
    heard = NotifySocket.__new__(NotifySocket)
    heard.__dict__ |= {
        "_supervisor": supervisor, "_named": True, "due": None, "stopping": False, "triggered": False,
        "watchdog_at": 0.0, "watchdog_seen": False, "on_ready": lambda: None, "on_trouble": lambda: None,
        "_is_ours": lambda _pid: False, "_strangers": set(),
    }  # fmt: skip
    extended: list[float] = []
    heard.on_extend = extended.append
    for message in data.split(b"\x1e"):
        heard._hear(message[:4096].decode("utf-8", "replace"))
        heard._refuse(0, message)
    require(all(0 <= seconds < 1e13 for seconds in extended), f"extended by {extended}")
    status = supervisor.record.get("notify", {}).get("status", "")
    require(status.isprintable() and len(status) <= 300, f"a status that speaks to the terminal: {status!r}")
    require("main_pid" not in supervisor.record.get("notify", {}), "a main process that is not ours")
    wire.dumps(supervisor.record)
    for _name, details in supervisor.told:
        wire.dumps(details)
    return bool(supervisor.record.get("notify"))


def check_history_of_plan(box: Box, data: bytes) -> bool:
    """``--resume``: broken lines are passed over, what is done is told by a whole line, and nobody is signalled."""
    path = box.write("proj/out/events.jsonl", data)
    asked: list[Any] = []
    real = resume.end_runs
    resume.end_runs = lambda marks, _stop, **_options: asked.extend(marks) or {}  # type: ignore[assignment,func-returns-value]
    try:
        past = resume.Past(path)
        past.end_strays()
    finally:
        resume.end_runs = real
    for mark in asked:
        require(mark.pid < 1 << 31 and mark.pid not in (0, 1) and mark.start >= 0, f"no process: {mark}")
        require(mark.run_id, "a mark without a run id")
    for name in ("a", "b"):
        past.is_done(StepSpec(id=name, command=["true"], cwd="/", depends_on=["a"] if name == "b" else []), "f")
    log = journal.Journal.open(path)
    try:
        log.write("plan_started", plan="p")
    finally:
        log.close()
    require(resume.Past(path).plan_id == "p", "what is written behind the damage is not read")
    return bool(past.done or past.open)


def check_result(box: Box, data: bytes) -> bool:
    """result.json: a state that every display can show, or a StateError that names the file."""
    folder = str(box.project / "out")
    path = box.write("proj/out/result.json", data)
    try:
        state = planfolders.load(folder)
    except StateError as error:
        box.refused(error, path)
        return False
    look = Look(colour=False)
    lines = table.compose(state, now=2e9, width=80, height=30, look=look)
    lines += summary.compose(state, 2e9, look=look)
    for line in lines:
        require(line.isprintable(), f"a line that speaks to the terminal: {line!r}")
    planfolders.step_rows(state, 2e9)
    planfolders.bars(state, 2e9)
    planfolders.provider_rows(state)
    planfolders.headline(state, held=False)
    timeline.chrome_trace(state, 2e9)
    require("<script>x" not in timeline.html_page(state, 2e9), "a page that runs what a step is called")
    require(PlanState.from_dict(state.to_dict()).to_dict() == state.to_dict(), "read again, it is another")
    return True


def check_times(box: Box, data: bytes) -> bool:
    """Seconds of earlier runs: finite numbers, or nothing."""
    plan = PlanSpec(id="p", steps=[StepSpec(id="a", command=["true"], cwd="/")], path="/x")
    box.empty("state/.plans")
    with open(past_times._path(plan), "wb") as file:
        file.write(data)
    found = past_times.load(plan)
    require(all(isinstance(value, float) and 0 <= value < math.inf for value in found.values()), f"{found}")
    past_times.save(plan, PlanState("p"))
    return bool(found)


def check_http(box: Box, data: bytes) -> bool:
    """An answer to a probe: a verdict in one line, the same for the whole as byte by byte."""
    told = []
    for size in (len(data) or 1, 1 + len(data) // 9, 3 if len(data) < 2000 else 977):
        answer = Answer(Probe(http="http://127.0.0.1/", status="200-299,401", body="ok|fine"))
        for at in range(0, len(data), size):
            answer.feed(data[at : at + size])
        answer.feed(b"")
        require(answer.done, "no end though the connection has one")
        told.append(answer.verdict())
        require(len(told[-1][1]) < 1000, f"a verdict of {len(told[-1][1])} characters")
    require(told[0][0] == told[1][0] == told[2][0], f"cut otherwise, it is another verdict: {told}")
    return told[0][0]


def check_stat(box: Box, data: bytes) -> bool:
    """Any name that a process gives itself leaves its numbers what they are."""
    name = data.replace(b"\0", b"")[:64]
    numbers = b" S 77 78 79 0 -1 4194304 1 2 3 4 50 60 70 80 20 0 5 0 123456 9000000 321 18446744073709551615 1 1"
    found = linux._parse(7, b"7 (" + name + b")" + numbers)
    require(found is not None, "a process that is not seen")
    if found is not None:
        seen = (found.pid, found.ppid, found.pgid, found.sid, found.state, found.start, found.threads)
        require(seen == (7, 77, 78, 79, "S", 123456, 5), f"{name!r} makes it {seen}")
        require(printable.clean(found.command).isprintable(), "a name that speaks to the terminal")
    real = linux._read
    linux._read = lambda path: data if path.startswith("/proc/7/") else b""
    try:
        words, variables = linux.cmdline(7), linux.environ(7)
    finally:
        linux._read = real
    require(all(printable.clean(word).isprintable() for word in words), "a command line that speaks to the terminal")
    require(variables is None or all("\0" not in value for value in variables.values()), "a variable with a NUL")
    probe.parse_mounts(data.decode("utf-8", "replace"))
    return True


def check_metrics(box: Box, data: bytes) -> bool:
    """Whatever a target is called, a sample is one line, and its label comes back."""
    text = data.decode("utf-8", "surrogateescape")
    series = exposition.Series()
    labels = {"project": text, exposition.INSTANCE: text[::-1], "target": "t"}
    series.add("safesh_instance_up", labels, 1.0)
    for kind in exposition.FORMATS:
        lines = exposition.render(series, kind).split("\n")
        samples = [line for line in lines if line and not line.startswith("#")]
        require(len(samples) == 1, f"{len(samples)} lines of one sample")
        inside = samples[0].partition('project="')[2].partition(f'",{exposition.INSTANCE}')[0]
        back = inside.replace("\\\\", "\0").replace('\\"', '"').replace("\\n", "\n").replace("\0", "\\")
        require(back == exposition.clean(text) or "\0" in text, f"{text!r} comes back as {back!r}")
    return True


def _result() -> bytes:
    step = {"id": "a", "status": "completed", "attempt": 1, "started_at": 1e9, "ended_at": 1e9 + 5, "seconds": 5.0}
    failed = {
        "id": "b",
        "status": "failed",
        "error": "exit 1",
        "attempt": 2,
        "earlier": [{"started_at": 1e9, "seconds": 1}],
    }
    state = PlanState("p", "all of it")
    state.started_at, state.ended_at = 1e9, 1e9 + 9
    text = json.dumps({**state.to_dict(), "steps": {"a": step, "b": {**failed, "last_lines": ["x"], "tokens": 5}}})
    return text.encode()


_EVENTS = (
    b'{"v":1,"at":1.5,"event":"plan_started","plan":"p"}\n'
    b'{"v":1,"at":1.5,"event":"step_started","step":"a","run_id":"r","pid":77,"start":1,"boot":"x"}\n'
    b'{"v":1,"at":1.5,"event":"step_completed","step":"a","fingerprint":"f"}\n'
    b'{"v":1,"at":1.5,"event":"step_started","step":"b","run_id":"r2","pid":77,"start":1,"boot":"BOOT"}\n'
)
_REQUESTS = (
    b'{"do": "stop", "grace": 1.5, "now": false, "spec": null}\n',
    b'{"do": "wait"}\n{"do": "restart", "grace": null, "now": true, "spec": {"name": "t", "instance": "t", '
    b'"project": "p", "command": ["x"], "cwd": "/", "stop": {"signal": "SIGTERM", "grace": 1}}}\n',
)
TARGETS: tuple[Target, ...] = (
    Target(
        "report channel",
        check_reports,
        (b'{"v": 1, "at": 1.5, "tokens": 5, "cost": 0.5, "progress": 0.5, "message": "x"}\n{"tokens": 1e3}\nx\n',),
        _JSON,
    ),
    Target("requests", check_requests, _REQUESTS, (*_JSON, b'"grace"', b'"spec"', b'"do"')),
    Target("answers", check_answers, (b'{"accepted": "stop", "grace": 1}\n{"over": true, "verdict": {}}\n',), _JSON),
    Target(
        "sd_notify",
        check_datagrams,
        (b"READY=1\nSTATUS=busy\nMAINPID=77\x1eEXTEND_TIMEOUT_USEC=5000000\nWATCHDOG=1\x1eSTOPPING=1\nRELOADING=1",),
        (
            b"=",
            b"\n",
            b"\x1e",
            b"\0",
            b"\xff",
            b"\x1b[31m",
            b"9" * 17,
            b"9" * 30,
            b"-1",
            b"STATUS=",
            b"WATCHDOG=trigger",
        ),
    ),
    Target("events of a plan", check_history_of_plan, (_EVENTS,), (*_JSON, b'"event"', b'"pid"', b'"step"')),
    Target("result.json", check_result, (_result(),), (*_JSON, b"</script><script>x", b'"earlier"', b'"started_at"')),
    Target("earlier times", check_times, (b'{"a": [1.5, 2, 3], "b": []}',), _JSON),
    Target(
        "HTTP answer",
        check_http,
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 x\nTransfer-Encoding: chunked\n\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n",
        ),
        (b"\r\n", b"\n\n", b": ", b"9" * 30, b"-1", b"0x5", b"ok", b"HTTP/1.1 ", b"\x1b[31m", b"\xff", b"ffffffff\r\n"),
    ),
    Target(
        "names in /proc",
        check_stat,
        (b"sleep", b") R 1 1 1 (x", b"a\nb\x1b[31m", b"HOME=/x\0A=b\0"),
        (b")", b"(", b"\n"),
    ),
    Target(
        "exposition",
        check_metrics,
        (b"t", b'a"b\\c\nd'),
        (b'"', b"\\", b"\n", b"{", b"}", b"\xff", b"\xe2\x80\xa8", b" 1\n"),
    ),
)
