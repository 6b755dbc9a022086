"""The scrape endpoint: ``/metrics`` over HTTP, in the format that is asked for, measured anew for each request.

prometheus-client (extra ``metrics``) speaks the formats; the socket is ours, so that a taken port, a wrong address and
the end by a signal are told and done cleanly. See the exposition formats in Prometheus's documentation.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import signal
import socket
import socketserver
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from safesh import _platform, vendor
from safesh.errors import SafeshError, UsageError
from safesh.metrics.exposition import CATALOG

if TYPE_CHECKING:
    from safesh.metrics.collect import Collector

DEFAULT_HOST = "127.0.0.1"
_HINT = "write --listen 127.0.0.1:9464, or --listen 9464"
_PATIENCE = 10.0  # seconds in which a client has to say what it wants


class ExtraMissing(SafeshError):
    """prometheus-client is not installed (EX_UNAVAILABLE)."""

    exit_code = 69


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) from ``HOST:PORT``, ``[IPV6]:PORT``, or a port alone, which means loopback. UsageError else."""
    host, colon, port = text.rpartition(":")
    if not colon:
        host = DEFAULT_HOST
    elif not host:
        raise UsageError(
            f"{text!r} leaves open which address", place="--listen", hint=f"{_HINT}; every address: 0.0.0.0{text}"
        )
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UsageError(
            f"{text!r} is no HOST:PORT", place="--listen", hint="an IPv6 address stands in brackets: [::1]:9464"
        )
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) < 1 << 16):
        raise UsageError(f"{port!r} is no port from 0 to 65535", place="--listen", hint=_HINT)
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, family: int, address: tuple[Any, ...]) -> None:
        self.address_family = family
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without the name lookup of HTTPServer, which may take seconds where no resolver answers."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is nobody's error."""


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape every few seconds is no news."""

    def address_string(self) -> str:
        return str(self.client_address[0])

    def get_stderr(self) -> Any:
        return _Nowhere()


class _Nowhere:
    """Where wsgiref's tracebacks about clients that went away go."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


class Endpoint:
    """A bound address that serves a collector's scrapes; :meth:`serve` is its life."""

    def __init__(self, collector: Collector, host: str, port: int) -> None:
        """port: 0 takes a free one. ExtraMissing, UsageError (no such address), SafeshError (taken, not allowed)."""
        application = _application(collector)
        family, address = _resolve(host, port)
        try:
            self._server = _Server(family, address)
        except OSError as error:
            raise _cannot_listen(error, host, port) from None
        self._server.set_app(application)
        self._server.timeout = 0  # whoever hung up between poll and accept must not hold us
        self._server.socket.setblocking(False)
        self.host = str(self._server.server_address[0])
        self.port = int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/metrics"

    def serve(self, ready: Callable[[str], None]) -> int:
        """Serve until SIGTERM or SIGINT; which of them it was. ready: called with the URL once it answers.

        For the main thread, before there are others. What the caller was started to ignore (by a shell's ``&``) stays
        ignored. Requests under way are left to end with the process.
        """
        ends = [one for one in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(one) != signal.SIG_IGN]
        signals = _platform.SignalSource(ends)
        try:
            watch = select.poll()
            watch.register(signals.fileno(), select.POLLIN)
            watch.register(self._server.fileno(), select.POLLIN)
            ready(self.url)
            while True:
                watch.poll()
                if came := signals.read():
                    return came[0]
                self._server.handle_request()
        finally:
            self.close()
            signals.close()

    def close(self) -> None:
        """Let go of the address."""
        self._server.socket.close()


def _resolve(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise UsageError(f"{host!r} is no address that can be found", place="--listen", hint=_HINT) from None
    found.sort(key=lambda one: one[0] != socket.AF_INET)  # localhost means 127.0.0.1 to whoever scrapes it
    return int(found[0][0]), found[0][4]


def _cannot_listen(error: OSError, host: str, port: int) -> SafeshError:
    place = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        holder = _holder_of(port)
        return SafeshError(
            f"the port is taken{holder and f' by {holder}'}", place=place, hint=f"take another: --listen {port + 1}"
        )
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return UsageError("is no address of this machine", place=place, hint=_HINT)
    if error.errno in (errno.EACCES, errno.EPERM):
        return SafeshError("may not be listened on by this user", place=place, hint="take a port from 1024 on")
    return SafeshError(f"cannot be listened on: {error.strerror}", place=place, hint=_HINT)


def _holder_of(port: int) -> str:
    """Who listens there, in words; "" where nobody can tell."""
    wanted = _platform.listeners(port)
    for pid, one in _platform.scan().items() if wanted else ():
        if pid != os.getpid() and (_platform.sockets_of(pid) or set()) & wanted:
            return f"pid {pid} ({one.command})"
    return ""


def _application(collector: Collector) -> Callable[..., Iterable[bytes]]:
    """The WSGI application. ExtraMissing where prometheus-client is."""
    vendor.add_site_packages()
    try:
        from prometheus_client import CollectorRegistry, Metric, make_wsgi_app
        from prometheus_client.registry import Collector as Base
    except ImportError as error:
        raise ExtraMissing(
            f"prometheus-client cannot be imported ({error})",
            place="--listen",
            hint=f"install it: {sys.executable or 'python3'} -m pip install prometheus-client",
        ) from None

    class Scrape(Base):
        def describe(self) -> list[Metric]:
            return [Metric(one.stem, one.help, one.kind, one.unit) for one in CATALOG.values()]

        def collect(self) -> Iterable[Metric]:
            for family, samples in collector.scrape():
                metric = Metric(family.stem, family.help, family.kind, family.unit)
                for labels, value in samples:
                    metric.add_sample(family.name, labels, value)
                yield metric

    registry = CollectorRegistry()
    registry.register(Scrape())
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            return metrics(environ, start)  # type: ignore[no-any-return]
        status = "200 OK" if path == "/" else "404 Not Found"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [b"safesh: the metrics are at /metrics\n"]

    return answer
