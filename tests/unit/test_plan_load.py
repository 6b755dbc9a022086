"""Plan files: what they may say in each format, and how each mistake in them is told."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safesh.clock import parse_duration
from safesh.errors import ConfigError, SafeshError
from safesh.model import Backoff, Hook, Limit, Limits
from safesh.plan.load import load_plan
from safesh.plan.model import PlanSpec, StepSpec

Write = Callable[..., str]

FULL: dict[str, Any] = {
    "id": "nightly",
    "description": "All of it",
    "resources": {"cpu": 2, "memory": "1G", "groq": 2, "license": 1},
    "env": {"LANG": "C", "LEVEL": 3},
    "notify": [{"on": ["step_failed"], "command": ["mail-me"]}, {"command": "tell all"}],
    "steps": [
        {"id": "look", "command": ["python3", "look.py"], "type": "analysis", "provider": "groq"},
        {
            "id": "build",
            "type": "code_generation",
            "description": "Make it",
            "provider": "other",
            "command": "make -j2 | tee log",
            "shell": True,
            "depends_on": ["look"],
            "timeout": "1m30s",
            "retries": 2,
            "backoff": {"initial": "0.5s", "factor": 3, "max": "10s", "jitter": 0},
            "env": {"CC": "gcc"},
            "cwd": "sub",
            "inputs": ["src/**/*.c", "Makefile", "/etc/hostname"],
            "outputs": ["out/app"],
            "limits": {"memory": "512M", "cpu": {"most": 90, "for": "5s", "action": "warn"}},
            "resources": {"cpu": 1.5, "memory": "512M", "license": 1},
        },
        {"id": "test", "command": "sh -c 'exit 0'", "depends_on": ["build"]},
    ],
}
FULL_TOML = """
id = "nightly"
description = "All of it"
resources = { cpu = 2, memory = "1G", groq = 2, license = 1 }
env = { LANG = "C", LEVEL = 3 }
[[notify]]
on = ["step_failed"]
command = ["mail-me"]
[[notify]]
command = "tell all"
[[steps]]
id = "look"
command = ["python3", "look.py"]
type = "analysis"
provider = "groq"
[[steps]]
id = "build"
type = "code_generation"
description = "Make it"
provider = "other"
command = "make -j2 | tee log"
shell = true
depends_on = ["look"]
timeout = "1m30s"
retries = 2
backoff = { initial = "0.5s", factor = 3, max = "10s", jitter = 0 }
env = { CC = "gcc" }
cwd = "sub"
inputs = ["src/**/*.c", "Makefile", "/etc/hostname"]
outputs = ["out/app"]
limits = { memory = "512M", cpu = { most = 90, for = "5s", action = "warn" } }
resources = { cpu = 1.5, memory = "512M", license = 1 }
[[steps]]
id = "test"
command = "sh -c 'exit 0'"
depends_on = ["build"]
"""
FULL_YAML = """
id: nightly
description: All of it
resources: {cpu: 2, memory: 1G, groq: 2, license: 1}
env: {LANG: C, LEVEL: 3}
notify:
  - on: [step_failed]          # a key that YAML 1.1 reads as true
    command: [mail-me]
  - command: tell all
steps:
  - id: look
    command: [python3, look.py]
    type: analysis
    provider: groq
  - id: build
    type: code_generation
    description: Make it
    provider: other
    command: make -j2 | tee log
    shell: true
    depends_on: [look]
    timeout: 1m30s
    retries: 2
    backoff: {initial: 0.5s, factor: 3, max: 10s, jitter: 0}
    env: {CC: gcc}
    cwd: sub
    inputs: [src/**/*.c, Makefile, /etc/hostname]
    outputs: [out/app]
    limits:
      memory: 512M
      cpu: {most: 90, for: 5s, action: warn}
    resources: {cpu: 1.5, memory: 512M, license: 1}
  - id: test
    command: sh -c 'exit 0'
    depends_on: [build]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a plan into an empty working directory and gives its name."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def writer(content: object, name: str = "plan.json") -> str:
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
        return name

    return writer


def step(**keys: Any) -> dict[str, Any]:
    return {"id": "a", "command": ["true"], **keys}


def told(write: Write, content: object, name: str = "plan.json") -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_plan(write(content, name))
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)
    return caught.value


# --- what a plan says ----------------------------------------------------------------------------


def test_every_key_is_read(write: Write) -> None:
    plan = load_plan(write(FULL))
    folder = os.getcwd()
    look, build, test = plan.steps
    assert plan == PlanSpec(
        id="nightly",
        description="All of it",
        steps=[look, build, test],
        resources={"cpu": 2.0, "memory": 1 << 30, "groq": 2.0, "license": 1.0},
        env={"LANG": "C", "LEVEL": "3"},
        notify=[Hook(on=["step_failed"], command=["mail-me"]), Hook(command=["tell", "all"])],
        path=f"{folder}/plan.json",
    )
    assert build == StepSpec(
        id="build",
        type="code_generation",
        description="Make it",
        provider="other",
        command=["/bin/sh", "-c", "make -j2 | tee log"],
        depends_on=["look"],
        timeout=90.0,
        retries=2,
        backoff=Backoff(initial=0.5, factor=3.0, max=10.0, jitter=0.0),
        env={"CC": "gcc"},
        cwd=f"{folder}/sub",
        inputs=[f"{folder}/src/**/*.c", f"{folder}/Makefile", "/etc/hostname"],
        outputs=[f"{folder}/out/app"],
        limits=Limits(memory=Limit(most=512 << 20, action="stop"), cpu=Limit(most=90, lasting=5.0, action="warn")),
        resources={"cpu": 1.5, "memory": 512 << 20, "license": 1.0},
    )
    assert test.command == ["sh", "-c", "exit 0"]
    assert test.cwd == folder
    assert test.timeout is None
    assert test.limits is None


@pytest.mark.parametrize(
    ("name", "text"), [("plan.toml", FULL_TOML), ("plan.yaml", FULL_YAML), ("plan.yml", FULL_YAML)]
)
def test_the_formats_say_the_same(write: Write, name: str, text: str) -> None:
    plan = load_plan(write(text, name))
    plan.path = ""
    other = load_plan(write(FULL))
    other.path = ""
    assert plan == other


def test_a_plan_survives_the_way_through_plain_data(write: Write) -> None:
    plan = load_plan(write(FULL))
    assert PlanSpec.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_a_provider_takes_a_token_where_the_plan_counts_them(write: Write) -> None:
    look, build, _ = load_plan(write(FULL)).steps
    assert look.resources == {"groq": 1.0}
    assert "other" not in build.resources


def test_a_step_may_say_how_many_tokens_of_its_provider_it_takes(write: Write) -> None:
    plan = {"resources": {"groq": 3}, "steps": [step(provider="groq", resources={"groq": 2})]}
    assert load_plan(write(plan)).steps[0].resources == {"groq": 2.0}


def test_without_an_id_a_plan_has_its_files_name(write: Write) -> None:
    assert load_plan(write({"steps": [step()]}, "weekly.v2.json")).id == "weekly.v2"


def test_what_the_plan_does_not_count_of_the_machine_is_the_engines(write: Write) -> None:
    plan = {"steps": [step(resources={"cpu": 64, "memory": "1T", "gpu": 8})]}
    assert load_plan(write(plan)).resources == {}


def test_relative_paths_begin_at_the_files_folder_and_its_brackets_are_no_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a[1]"
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps({"steps": [step(inputs=["x", "*.c", "~/y"], cwd="..")]}))
    monkeypatch.setenv("HOME", "/home/of-somebody")
    monkeypatch.chdir("/")
    found = load_plan(str(folder / "plan.json")).steps[0]
    assert found.inputs == [f"{folder}/x", f"{tmp_path}/a[[]1]/*.c", "/home/of-somebody/y"]
    assert found.cwd == f"{folder}/.."


def test_aliases_and_merges_of_yaml_work(write: Write) -> None:
    text = """
base: &base {retries: 3, env: {A: b}}
steps:
- {<<: *base, id: a, command: [x]}
- {<<: *base, id: b, command: [x], retries: 1}
"""
    assert told(write, text, "plan.yaml").place == "plan.yaml: base"
    text = """
steps:
- &base {id: a, command: [x], retries: 3, env: {A: b}}
- {<<: *base, id: b, retries: 1}
"""
    first, second = load_plan(write(text, "plan.yaml")).steps
    assert (first.retries, second.retries, second.env) == (3, 1, {"A": "b"})


# --- mistakes ---------------------------------------------------------------------------------------

MISTAKES: list[tuple[Any, str, str, str]] = [
    # content, place, message, hint
    ({"steps": [step(), step(id="b", depends_on=["c"])]}, "steps[1].depends_on[0]", "'c' is no step", "steps: a, b"),
    ({"steps": [step(id="build"), step(depends_on=["biuld"])]}, "steps[1].depends_on[0]", "is no step", '"build"?'),
    (
        {"steps": [step(depends_on=["c"]), step(id="b", depends_on=["a"]), step(id="c", depends_on=["b"])]},
        "steps[1].depends_on[0]",
        "a circle: a → c → b → a",
        "take one of them out",
    ),
    ({"steps": [step(depends_on=["a"])]}, "steps[0].depends_on[0]", "a circle: a → a", ""),
    ({"steps": [step(), step()]}, "steps[1].id", "'a' is the id of steps[0] too", ""),
    ({"steps": [step(id="a/b")]}, "steps[0].id", "'a/b' cannot name a step", "use 1 to 80"),
    ({"steps": [step(id="..")]}, "steps[0].id", "'..' cannot name a step", ""),
    ({"steps": [step(id="a\0")]}, "steps[0].id", "cannot name a step", ""),
    ({"steps": [step(id=7)]}, "steps[0].id", "expected a name, in quotes, got a whole number: 7", ""),
    ({"id": "a b", "steps": [step()]}, "id", "'a b' cannot name a plan", ""),
    ({"steps": [step(comand=["x"])]}, "steps[0].comand", "unknown key", '"command"?'),
    ({"steps": [step(dependson=[])]}, "steps[0].dependson", "unknown key", '"depends_on"?'),
    ({"step": []}, "step", "unknown key", '"steps"?'),
    ({"steps": [{"command": ["x"]}]}, "steps[0]", "has no id", 'add id = "NAME"'),
    ({"steps": [{"id": "a"}]}, "steps[0]", "has no command", ""),
    ({"steps": [step(command=[])]}, "steps[0].command", "names no program", ""),
    ({"steps": [step(command=["a", 1])]}, "steps[0].command[1]", "expected a string, got a whole number", ""),
    ({"steps": [step(command=["a", "b\0"])]}, "steps[0].command[1]", "contains a NUL character", ""),
    ({"steps": [step(command="a | b")]}, "steps[0].command", "means something to a shell only", "shell = true"),
    ({"steps": [step(command=["a"], shell=True)]}, "steps[0].command", "expected a string", ""),
    ({"steps": [step(timeout="soon")]}, "steps[0].timeout", "'soon' is not a duration", '"1.5s"'),
    ({"steps": [step(timeout=0)]}, "steps[0].timeout", "is 0, expected more", "leave it out"),
    ({"steps": [step(timeout=None)]}, "steps[0].timeout", "expected a duration", ""),
    ({"steps": [step(retries=-1)]}, "steps[0].retries", "expected a whole number", ""),
    ({"steps": [step(backoff={"initial": 9, "max": 1})]}, "steps[0].backoff.max", "is less than initial", ""),
    ({"steps": [step(env={"A": []})]}, "steps[0].env.A", "expected a string, a number or a boolean, got a list", ""),
    ({"steps": [step(env={"SAFESH_REPORT": "x"})]}, "steps[0].env.SAFESH_REPORT", "only the runner sets it", ""),
    ({"env": {"SAFESH_RUN_ID": "x"}, "steps": [step()]}, "env.SAFESH_RUN_ID", "only the supervisor sets it", ""),
    ({"steps": [step(cwd="")]}, "steps[0].cwd", "is empty, expected a path", ""),
    ({"steps": [step(inputs="x")]}, "steps[0].inputs", "expected a list of paths, got a string: 'x'", ""),
    ({"steps": [step(inputs=["x", ""])]}, "steps[0].inputs[1]", "is empty, expected a path", ""),
    ({"steps": [step(outputs=[3])]}, "steps[0].outputs[0]", "expected a path, got a whole number", ""),
    ({"steps": [step(limits={"memory": "10X"})]}, "steps[0].limits.memory", "'10X' is not a size", ""),
    ({"steps": [step(limits={"action": "restart"})]}, "steps[0].limits.action", "a step is not restarted", "retries"),
    (
        {"steps": [step(limits={"cpu": {"most": 9, "action": "restart"}})]},
        "steps[0].limits.cpu.action",
        "a step is not restarted",
        "retries",
    ),
    ({"steps": [step(resources={"memory": "1X"})]}, "steps[0].resources.memory", "'1X' is not a size", ""),
    ({"steps": [step(resources={"cpu": "2"})]}, "steps[0].resources.cpu", "expected a number, got a string", ""),
    ({"steps": [step(resources={"cpu": -1})]}, "steps[0].resources.cpu", "-1 is out of range", ""),
    (
        {"resources": {"memory": "1G"}, "steps": [step(resources={"memory": "2G"})]},
        "steps[0].resources.memory",
        "needs 2.0 GiB, the plan has 1.0 GiB, so it could never start",
        "raise",
    ),
    (
        {"resources": {"groq": 2}, "steps": [step(resources={"grok": 1})]},
        "steps[0].resources.grok",
        "the plan does not say how much of it there is",
        'did you mean "groq"?',
    ),
    (
        {"resources": {"groq": 0}, "steps": [step(provider="groq")]},
        "steps[0].provider",
        "needs 1, the plan has 0, so it could never start",
        "",
    ),
    ({"notify": {"on": ["step_fail"], "command": ["x"]}, "steps": [step()]}, "notify.on[0]", "is no event", "_failed"),
    ({"notify": [{"on": ["plan_ended"]}], "steps": [step()]}, "notify[0]", "tells nobody", ""),
    ({"steps": {}}, "steps", "expected a list of steps, got a table", ""),
    ({"steps": []}, "steps", "expected a list of steps, got none", ""),
    ({"steps": None}, "steps", "expected a list of steps, got nothing", ""),
    ({"steps": ["a"]}, "steps[0]", "expected a table, got a string", ""),
    ({}, "", "has no steps", ""),
    ([], "", "expected a table, got a list", ""),
]


@pytest.mark.parametrize(("content", "place", "message", "hint"), MISTAKES, ids=[str(row[1:3]) for row in MISTAKES])
def test_a_mistake_is_told_with_its_place(write: Write, content: Any, place: str, message: str, hint: str) -> None:
    error = told(write, content)
    assert error.place == (f"plan.json: {place}" if place else "plan.json")
    assert message in error.message
    assert hint in error.hint


@pytest.mark.parametrize(
    ("name", "text", "place", "message"),
    [
        ("p.json", '{"steps": [\n {"id": "a",}]}', "p.json:2:", "not JSON: "),
        ("p.json", "", "p.json:1:1", "not JSON: expecting value"),
        ("p.json", '{"steps": [], "steps": []}', "p.json", "the key 'steps' stands twice"),
        ("p.json", '{"steps": [{"timeout": NaN}]}', "p.json", "NaN is not JSON"),
        ("p.json", '{"description": "\\ud800", "steps": []}', "p.json", "holds half a character"),
        ("p.json", '{"env": {"A": "\\uDFFF"}, "steps": []}', "p.json", "holds half a character"),
        ("p.json", "[" * 100_000, "p.json", "nested too deeply"),
        ("p.json", '{"steps": ' + "1" * 5000 + "}", "p.json", "cannot be read"),
        ("p.json", b"\xff\xfe{", "p.json:1", "byte 0xff is not UTF-8"),
        ("p.toml", 'id = "a"\nsteps = [', "p.toml:2:", "not TOML: "),
        ("p.toml", "[[steps]]\nid = 1979-05-27", "p.toml: steps[0].id", "got a date or time"),
        ("p.yaml", "steps:\n  - id: a\n id: b", "p.yaml:3:", "not YAML: "),
        ("p.yaml", "steps:\n- id: a\n  id: b", "p.yaml:3:3", "the key 'id' stands twice"),
        ("p.yaml", "steps: !!python/object/apply:os.getpid []", "p.yaml:1:8", "not YAML: could not determine a cons"),
        ("p.yaml", "a: &a [*a]", "p.yaml", "an alias stands within what it names"),
        ("p.yaml", "[a, b]: c", "p.yaml:1:", "a key is no text"),
        ("p.yaml", "a: 1\n---\nb: 2", "p.yaml:2:1", "not YAML: "),
        ("p.yaml", "steps:\n- id: \0", "p.yaml:2", "not YAML: "),
        ("p.yaml", "steps: " + "[" * 5000, "p.yaml", ""),
        ("p.yaml", "", "p.yaml", "has no steps"),
        ("p.yaml", "id: 2001-99-99\nsteps: []", "p.yaml", "cannot be read"),
        ("p.yaml", "8080: x", "p.yaml: 8080", "unknown key"),
        ("p.txt", "", "p.txt", "its name ends in '.txt', which tells no format"),
        ("p", "", "p", "its name has no suffix"),
    ],
)
def test_a_file_that_is_not_its_format_is_told_with_its_line(
    write: Write, name: str, text: str | bytes, place: str, message: str
) -> None:
    error = told(write, text, name)
    assert error.place.startswith(place)
    assert message in error.message


def test_aliases_that_stand_for_billions_are_refused_at_once(write: Write) -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    began = time.monotonic()
    assert "too many values" in told(write, "\n".join(lines), "plan.yaml").message
    assert time.monotonic() - began < 5


def test_a_file_that_cannot_be_read_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^none\.json: there is no such file$"):
        load_plan("none.json")
    os.symlink("nowhere", "link.json")
    with pytest.raises(ConfigError, match=r"^link\.json: is a symlink to nothing$"):
        load_plan("link.json")
    os.mkdir("dir.json")
    with pytest.raises(ConfigError, match=r"^dir\.json: is a folder"):
        load_plan("dir.json")
    os.mkfifo("pipe.json")
    with pytest.raises(ConfigError, match=r"^pipe\.json: is not a regular file$"):
        load_plan("pipe.json")
    os.symlink("loop.json", "loop.json")
    with pytest.raises(ConfigError, match=r"^loop\.json: cannot be read: "):
        load_plan("loop.json")
    with pytest.raises(ConfigError, match="names no file"):
        load_plan("a\0.json")
    with pytest.raises(ConfigError, match="names no file"):
        load_plan("")


def test_a_plan_that_everybody_can_write_is_not_run(write: Write) -> None:
    name = write({"steps": [step()]})
    os.chmod(name, 0o666)
    with pytest.raises(ConfigError, match="written by everybody"):
        load_plan(name)


def test_a_name_that_cannot_be_an_id_asks_for_one(write: Write) -> None:
    assert "has no id" in told(write, {"steps": [step()]}, "a plan.json").message


def test_yaml_without_its_library_says_what_to_install(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "safesh.plan.yaml_source", raising=False)
    monkeypatch.delattr("safesh.plan.yaml_source", raising=False)
    with pytest.raises(SafeshError) as caught:
        load_plan(write(FULL_YAML, "plan.yaml"))
    assert "PyYAML" in caught.value.message
    assert "safesh[plans]" in caught.value.hint


def test_a_long_circle_is_told_in_one_line(write: Write) -> None:
    steps = [step(id=f"s{n}", depends_on=[f"s{(n + 1) % 3000}"]) for n in range(3000)]
    error = told(write, {"steps": steps})
    assert error.message.startswith("a circle: s0 → s1 → ")
    assert error.message.endswith("→ s2999 → s0")
    assert len(error.message) < 400


# --- any file, and large ones ---------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a", "1s", "1M"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
STEP_KEYS = [*StepSpec.fields(), "shell", "odd"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.dictionaries(st.sampled_from(STEP_KEYS), VALUES, max_size=5), max_size=3),
    top=st.dictionaries(st.sampled_from(["id", "description", "resources", "env", "notify"]), VALUES, max_size=3),
)
def test_any_content_gives_a_plan_or_one_clear_error(
    write: Write, steps: list[dict[str, Any]], top: dict[str, Any]
) -> None:
    whole = [{"id": f"s{index}", "command": ["true"], **keys} for index, keys in enumerate(steps)]
    error: ConfigError | None = None
    try:
        assert len(load_plan(write({**top, "steps": whole})).steps) == len(steps)
    except ConfigError as caught:
        error = caught
    if error is not None:
        assert error.place.startswith("plan.json")
        assert error.message
        assert len(str(error)) < 1000


@pytest.mark.parametrize("name", ["plan.json", "plan.yaml"])
def test_ten_thousand_steps_load_in_seconds(write: Write, name: str) -> None:
    steps = [
        step(id=f"s{n}", depends_on=[f"s{n - 1}"] if n else [], resources={"cpu": 1}, env={"N": n}, timeout="1m")
        for n in range(10_000)
    ]
    write({"steps": steps}, name)  # JSON is YAML
    began = time.process_time()
    assert len(load_plan(name).steps) == 10_000
    assert time.process_time() - began < 20


def test_loading_the_package_loads_no_parser() -> None:
    import subprocess

    code = "import sys; import safesh, safesh.plan.load; print([n for n in ('yaml', 'msgspec') if n in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "supervisor")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"


# --- the page ---------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plans.md"


def section() -> str:
    """The page's part about the plan file."""
    return PAGE.read_text(encoding="utf-8").partition("## The plan file\n")[2].partition("\n## ")[0]


def test_the_page_tells_every_key_with_its_default() -> None:
    from safesh import _schema
    from safesh.plan import schema

    rows = re.findall(r"^\| `([a-z_.]+)` \| ([^|]*) \|", section(), re.MULTILINE)
    documented = dict(rows)
    expected = {f"steps.{key}": default for key, default in _schema.keys(schema.Step).items()}
    expected = {key: default for key, default in expected.items() if not key.startswith("steps.limits.")}
    expected |= {key: default for key, default in _schema.keys(schema.File).items()}
    tables = {"steps.backoff", "steps.limits"}
    assert set(documented) == {*expected, *tables}
    for key, default in expected.items():
        if documented[key].startswith("`"):
            told = json.loads(documented[key].strip("`"))
            assert (parse_duration(told) if told and isinstance(told, str) and told != "." else told) == default, key
        else:
            assert default in ("", None, 0, []), key  # told in words


def test_the_pages_examples_are_one_plan_in_three_formats(write: Write) -> None:
    blocks = re.findall(r"^```(json|toml|yaml)\n(.*?)^```$", section(), re.MULTILINE | re.DOTALL)
    plans = []
    for kind, text in blocks[:3]:
        plan = load_plan(write(text, f"plan.{kind}"))
        plan.path = ""
        plans.append(plan)
    assert [kind for kind, _ in blocks[:3]] == ["json", "toml", "yaml"]
    assert plans[0] == plans[1] == plans[2]
