"""YAML's text to plain tables, without the surprises: keys are text as written, none stands twice, nothing runs."""

from __future__ import annotations

from typing import Any

import yaml

from safesh.clock import shown
from safesh.errors import ConfigError

_MOST = 2_000_000  # values, aliases counted as often as they are used: a few lines can stand for billions


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C one where it was built
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
        # Keys stay text: YAML 1.1 reads ``on:`` as true and ``8080:`` as a number.
        own: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is no text", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            key.tag = "tag:yaml.org,2002:str"
            if key.value in own:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} stands twice", key.start_mark
                )
            own.add(key.value)
        found: dict[str, Any] = super().construct_mapping(node, deep)
        return found


def parse(text: str, source: str) -> Any:
    """The one document in ``text``; ConfigError tells line and column, and ``source``."""
    try:
        raw = yaml.load(text, _Loader)
        _weigh(raw, {}, source)
        return raw
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        what = error.problem or error.context or "it cannot be parsed"
        raise ConfigError(f"not YAML: {what}", place=where, hint="see https://yaml.org for the syntax") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"not YAML: {error.reason}", place=f"{source}:{line}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}", place=source) from None
    except RecursionError:
        raise ConfigError("nested too deeply", place=source) from None
    except (ValueError, TypeError, OverflowError) as error:  # a date or a number that Python cannot hold
        raise ConfigError(f"holds a value that cannot be read: {str(error)[:80]}", place=source) from None


def _weigh(value: Any, known: dict[int, int], source: str) -> int:
    """How many values there are once every alias is written out."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = 0  # being weighed
        total = 1 + sum(_weigh(item, known, source) for item in (value.values() if isinstance(value, dict) else value))
        if total > _MOST:
            raise ConfigError("its aliases stand for too many values", place=source, hint="write them out")
        known[id(value)] = total
    elif known[id(value)] == 0:
        raise ConfigError("an alias stands within what it names", place=source, hint="write it out")
    return known[id(value)]
