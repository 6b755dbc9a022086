"""``dashboard``: serve the pages of ``safesh/dashboard`` with Streamlit, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from safesh import config as configs
from safesh.cli import render, vendor
from safesh.errors import SafeshError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "dashboard")
_TOKEN = "SAFESH_DASHBOARD_TOKEN"
_OLDEST = (1, 52)  # of Streamlit: before it, tables had no word for what is not known


class StreamlitMissing(SafeshError):
    """The extra ``dashboard`` is not installed, or too old (EX_UNAVAILABLE)."""

    exit_code = 69


def run(args: dict[str, Any]) -> NoReturn:
    """Become the server. UsageError for an address or port that cannot be listened at."""
    _check_streamlit()
    host = args["host"]
    port = _check_port(host, args["port"])
    open_to_others = not _is_loopback(host)
    environment = {key: value for key, value in os.environ.items() if key != _TOKEN}
    words = ["--read-only"] if args["read_only"] else []
    found = configs.find(explicit=args["config"])
    if args["config"] and found:
        words += ["--config", os.path.abspath(found)]
    for folder in args["plan"]:
        words += ["--plan", os.path.abspath(folder)]
    name = f"[{host}]" if ":" in host else host
    _say(f"dashboard at http://{name}:{port} (Ctrl-C ends)")
    if open_to_others:
        _say(f"{host} can be reached from other machines: the pages ask for the token; the connection is not encrypted")
    if open_to_others or args["token"]:
        environment[_TOKEN] = token = secrets.token_urlsafe(24)
        _say(f"token: {token}")
    _become(host, port, words, environment)


def _become(host: str, port: int, words: list[str], environment: Mapping[str, str]) -> NoReturn:
    # -P: neither the working directory nor the dashboard's own folder may stand before the libraries.
    server = os.path.join(_FOLDER, "server.py")
    os.execve(sys.executable, [sys.executable, "-P", server, host, str(port), *words], environment)


def _check_streamlit() -> None:
    vendor.add_site_packages()
    hint = f"{sys.executable} -m pip install 'streamlit>={'.'.join(map(str, _OLDEST))}'"
    if importlib.util.find_spec("streamlit") is None:
        raise StreamlitMissing("Streamlit is not installed", place="dashboard", hint=hint)
    found = _version_of_streamlit()
    if found and found < _OLDEST:
        raise StreamlitMissing(f"Streamlit {'.'.join(map(str, found))} is too old", place="dashboard", hint=hint)


def _version_of_streamlit() -> tuple[int, ...]:
    """Its first two numbers; () where it does not tell them."""
    from importlib import metadata

    try:
        return tuple(int(part) for part in metadata.version("streamlit").split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return ()


def _check_port(host: str, port: int) -> int:
    """The port, a free one for 0; UsageError where nobody may listen there."""
    if not 0 <= port < 65536:
        raise UsageError(f"{port} is no port", place="--port", hint="use 1 to 65535, or 0 for a free one")
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(address)
            return int(one.getsockname()[1])
    except OSError as error:
        raise UsageError(
            f"cannot listen at {host} port {port}: {(error.strerror or str(error)).lower()}",
            place="dashboard",
            hint="choose another: safe.sh dashboard --port 0",
        ) from None


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{render.program()}: {text}\n")
        sys.stderr.flush()
