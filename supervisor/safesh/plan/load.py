"""Plan files: JSON, TOML or YAML by their suffix, read into one PlanSpec."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from safesh import vendor
from safesh.clock import shown
from safesh.config import display, working_directory
from safesh.errors import ConfigError, SafeshError
from safesh.plan.model import PlanSpec

FORMATS = {".json": "JSON", ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML"}
_LARGEST = 64 << 20  # bytes; plans of 10,000 steps are written by programs, and take some 3 MiB
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def load_plan(path: str) -> PlanSpec:
    """The plan in the file ``path``, every key checked.

    ConfigError names the first problem's place (``plan.json: steps[3].depends_on[0]``), what was expected and the
    next step; a file that cannot be read, is not the format of its suffix, or that everybody can write, is one too.
    SafeshError when a library that the format needs is missing.
    """
    if not path or "\0" in path:
        raise ConfigError(f"{shown(path)} names no file", hint="name a plan: plan.json, plan.toml or plan.yaml")
    path = os.path.abspath(os.path.join(working_directory(), os.path.expanduser(path)))
    source = display(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise ConfigError(
            f"its name ends in {shown(suffix)}, which tells no format" if suffix else "its name has no suffix",
            place=source,
            hint=f"name it with one of {', '.join(FORMATS)}",
        )
    vendor.add_site_packages()
    try:
        from safesh import _source, _targets
        from safesh.plan import schema
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "msgspec":
            raise
        raise SafeshError(
            "reading a plan needs the library msgspec, which is not installed",
            place=source,
            hint="install safesh with its dependencies: pip install msgspec",
        ) from None
    text, _ = _source.read(path, source, _LARGEST)
    raw: Any
    if suffix == ".json":
        raw = _parse_json(text, source)
    elif suffix == ".toml":
        raw = _targets.parse_toml(text, source)
    else:
        raw = _parse_yaml(text, source)
    return schema.build(raw, path)


def _parse_json(text: str, source: str) -> Any:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(items)
        if len(table) < len(items):  # json keeps the last one and says nothing
            seen: set[str] = set()
            twice = next(key for key, _ in items if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ConfigError(f"the key {shown(twice)} stands twice in one object", place=source, hint="keep one")
        return table

    def constant(name: str) -> float:
        raise ConfigError(f"{name} is not JSON", place=source, hint="write a number")

    try:
        raw = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}",
            place=f"{source}:{error.lineno}:{error.colno}",
            hint="see https://www.json.org for the syntax",
        ) from None
    except RecursionError:
        raise ConfigError("nested too deeply", place=source) from None
    except ValueError as error:  # a number of more digits than Python reads
        raise ConfigError(f"holds a value that cannot be read: {str(error)[:80]}", place=source) from None
    if _SURROGATE.search(text):
        _check_text(raw, source)
    return raw


def _check_text(raw: Any, source: str) -> None:
    """No string holds half of a surrogate pair, which no argument, path or file in UTF-8 can hold."""
    todo = [raw]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, list):
            todo += item
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise ConfigError(
                    f"{shown(item)} holds half a character", place=source, hint="write both halves of the \\u pair"
                ) from None


def _parse_yaml(text: str, source: str) -> Any:
    try:
        from safesh.plan import yaml_source
    except ImportError as error:
        if error.name != "yaml":
            raise
        raise SafeshError(
            "a plan in YAML needs the library PyYAML, which is not installed",
            place=source,
            hint="pip install 'safesh[plans]', or write the plan as JSON or TOML",
        ) from None
    return yaml_source.parse(text, source)
