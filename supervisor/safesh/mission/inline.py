"""Missions of files: what a script says of itself (PEP 723), and requirements files."""

from __future__ import annotations

import io
import os
import re
import sys
import tokenize
from collections.abc import Sequence
from typing import Any

from safesh.mission.errors import InvalidMission
from safesh.mission.model import Mission
from safesh.vendor import add_site_packages

# The expression of PEP 723 ("inline script metadata" in the packaging specifications).
_BLOCK = re.compile(r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$")
_LARGEST = 16 * 1024 * 1024  # bytes of a program


def from_file(path: str, mission_id: str = "", requirements: Sequence[str] = (), **options: Any) -> Mission:
    """A mission of a file; the requirements that it names itself come before ``requirements``."""
    code = read_script(path)
    needed = [*script_requirements(code, path), *requirements]
    again = os.path.abspath(path) if os.path.isfile(path) else None  # a pipe is read once
    return Mission(mission_id or _id_of(path), code, needed, file=again, **options)


def _id_of(path: str) -> str:
    stem = os.path.splitext(os.path.basename(path))[0]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).lstrip(".-")[:60] or "mission"


def read_script(path: str) -> str:
    """The text of a program, in the encoding that it names. InvalidMission tells why it cannot be one."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidMission(
            f"cannot be read: {error.strerror}", place=path, hint="name a Python file: safe.sh mission FILE.py"
        ) from None
    if len(data) > _LARGEST:
        raise InvalidMission(f"is larger than {_LARGEST >> 20} MiB", place=path, hint="name a Python file")
    try:
        encoding, _lines = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise InvalidMission(f"is no Python text: {error}", place=path, hint="save it as UTF-8") from None


def script_requirements(code: str, path: str) -> list[str]:
    """The ``dependencies`` of a script's own metadata (PEP 723); [] where it has none.

    InvalidMission: the block is there twice, is no TOML, or wants another Python.
    """
    blocks = [one for one in _BLOCK.finditer(code) if one["type"] == "script"]
    if not blocks:
        return []
    place = f"{path}, line {code.count(chr(10), 0, blocks[-1].start()) + 1}"
    if len(blocks) > 1:
        raise InvalidMission("a second block '# /// script'", place=place, hint="put all of it into one (PEP 723)")
    lines = blocks[0]["content"].splitlines(keepends=True)
    import tomllib

    try:
        data = tomllib.loads("".join(one[2:] if one.startswith("# ") else one[1:] for one in lines))
    except tomllib.TOMLDecodeError as error:
        raise InvalidMission(f"its block '# /// script' is no TOML: {error}", place=place) from None
    _check_python(data.get("requires-python"), place)
    found = data.get("dependencies", [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidMission(
            "dependencies: expected a list of strings", place=place, hint='such as dependencies = ["requests"]'
        )
    return found


def _check_python(wanted: object, place: str) -> None:
    if wanted is None:
        return
    add_site_packages()
    try:
        from packaging.specifiers import InvalidSpecifier, SpecifierSet
    except ImportError:
        return
    own = ".".join(map(str, sys.version_info[:3]))
    try:
        fits = SpecifierSet(str(wanted)).contains(own, prereleases=True)
    except InvalidSpecifier:
        raise InvalidMission(
            f"requires-python: {wanted!r} is no version", place=place, hint='such as ">=3.11"'
        ) from None
    if not fits:
        raise InvalidMission(
            f"wants Python {wanted}, and this is {own}", place=place, hint="run safesh with such a Python"
        )


def read_requirements(path: str) -> list[str]:
    """The requirements in a file, one a line, comments left out. InvalidMission for an option of pip's."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read(_LARGEST)
    except OSError as error:
        raise InvalidMission(f"cannot be read: {error.strerror}", place=path) from None
    except UnicodeDecodeError:
        raise InvalidMission("is not UTF-8", place=path, hint="save the file as UTF-8") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        word = re.sub(r"(^|\s+)#.*$", "", line).strip()
        if word.startswith("-") or word.endswith("\\"):
            raise InvalidMission(
                f"{word!r} is for an installer, and only requirements are read",
                place=f"{path}:{number}",
                hint="say it to the installer in the environment (PIP_INDEX_URL, UV_FIND_LINKS...)",
            )
        if word:
            found.append(word)
    return found
