"""Probes over TCP: a connection that is accepted (tcp), or an answer over it (http).

A numeric address, or localhost, is spoken to from the loop, without blocking. Names that only DNS knows, and https, go
to a forked child that may block as long as it likes: the resolver and TLS know no other way, and the timeout kills it.
"""

from __future__ import annotations

import errno
import os
import select

from safesh import _platform, wire
from safesh.core.fds import close_all_except, point_stdio_at_null
from safesh.supervise.probes import Attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    import socket as _socket
    from typing import NoReturn

    from safesh.model import Probe
    from safesh.supervise.probe_http import Answer
    from safesh.supervise.probes import Context, Finish, Readers
else:
    import _signal
    import _socket

_CHUNK = 65536


def begin(probe: Probe, context: Context, finish: Finish) -> Attempt:
    """The attempt for a tcp or http probe. OSError when there are no descriptors left."""
    address = None
    if probe.http:
        from safesh.supervise.probe_http import Address

        address = Address(probe.http)
        host, port = address.host, address.port
    else:
        host, _, text = probe.tcp.rpartition(":")
        host, port = host.strip("[]") or "127.0.0.1", int(text)
    hosts = ["127.0.0.1", "::1"] if host.lower() in ("localhost", "localhost.") else [host]
    families = [_family(one) for one in hosts]
    if None in families or (address is not None and address.secure):
        return Forked(probe, host, port, context, finish)
    exchange = None
    if address is not None:
        from safesh.supervise.probe_http import Answer, request

        exchange = (request(address), Answer(probe))
    places = [(family, one) for family, one in zip(families, hosts, strict=True) if family is not None]
    return Connection(places, port, exchange, finish)


def _family(host: str) -> int | None:
    """The address family of a numeric host, None for a name (or a scope, which the resolver has to read)."""
    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            _socket.inet_pton(family, host)
            return int(family)
        except OSError:
            continue
    return None


class Connection(Attempt):
    """Connect to the first of ``places`` that lets us, then say ``exchange``'s request and read its answer."""

    def __init__(
        self, places: list[tuple[int, str]], port: int, exchange: tuple[bytes, Answer] | None, finish: Finish
    ) -> None:
        super().__init__(finish)
        self._places = places
        self._port = port
        self._out = exchange[0] if exchange is not None else b""
        self._answer = exchange[1] if exchange is not None else None
        self._socket: _socket.socket | None = None
        self._connected = False
        self._refusals: list[str] = []
        self._next()

    def _next(self) -> None:
        """Try the next place; the attempt has failed when none is left."""
        self.close()
        if not self._places:
            self.finish(False, "; ".join(self._refusals))
            return
        family, host = self._places.pop(0)
        self._name = f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"
        self._socket = _socket.socket(family, _socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._tried(self._socket.connect_ex((host, self._port)))

    def _tried(self, error: int) -> None:
        if error == 0:
            self._on_connected()
        elif error not in (errno.EINPROGRESS, errno.EAGAIN, errno.EINTR):
            self._refusals.append(f"{self._name}: {os.strerror(error)}")
            self._next()

    def _on_connected(self) -> None:
        assert self._socket is not None
        if self._socket.getsockname() == self._socket.getpeername():
            # A port of the ephemeral range where nobody listens: the kernel connected us with ourselves.
            self._refusals.append(f"{self._name}: {os.strerror(errno.ECONNREFUSED)}")
            self._next()
            return
        self._connected = True
        if self._answer is None:
            self.finish(True, f"{self._name} accepts connections")

    def readers(self) -> Readers:
        if self._socket is None:
            return {}
        mask = select.POLLIN if self._connected and not self._out else select.POLLOUT
        return {self._socket.fileno(): (mask, self._go_on)}

    def _go_on(self) -> None:
        if self._socket is None:
            return
        if not self._connected:
            self._tried(int(self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)))
            return
        try:
            if self._out:
                self._out = self._out[self._socket.send(self._out) :]
                return
            self._take(self._socket.recv(_CHUNK))
        except BlockingIOError:
            pass
        except OSError as error:
            if self._out:  # it may have answered before it had heard us out, and closed
                self._out = b""
            else:
                self.finish(False, f"{self._name}: {error.strerror}")

    def _take(self, data: bytes) -> None:
        if self._answer is not None:
            self._answer.feed(data)
            if self._answer.done:
                ok, text = self._answer.verdict()
                self.finish(ok, text if ok else f"{self._name}: {text}")

    def waits_for(self) -> str:
        if not self._connected:
            return f"{self._name}: no connection"
        return f"{self._name}: {self._answer.progress() if self._answer is not None else 'nothing'}"

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Forked(Attempt):
    """The same, blocking, in a child that tells its result through a pipe."""

    def __init__(self, probe: Probe, host: str, port: int, context: Context, finish: Finish) -> None:
        super().__init__(finish)
        self._name = f"{host}:{port}"
        self._data = b""
        self._collected = False
        self._pipe, writing = os.pipe()
        # No handler of ours may run in the child; it stays deaf, and SIGKILL ends it.
        before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _look_blocking(probe, host, port, context.env, writing)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(writing)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, before)

    def readers(self) -> Readers:
        return {self._pipe: (select.POLLIN, self._read)} if self._pipe >= 0 else {}

    def _read(self) -> None:
        chunk = os.read(self._pipe, _CHUNK)
        self._data += chunk
        if not chunk:
            self.close()
            try:
                ok, message = wire.loads(self._data.decode())
            except ValueError:
                ok, message = False, f"{self._name}: the checking process ended without a word"
            self.finish(bool(ok), str(message))

    def children(self) -> list[int]:
        return [] if self._collected else [self._pid]

    def reaped(self, pid: int, status: int) -> bool:
        self._collected = True
        if self._pipe >= 0:
            self._read()  # what it said; at most a line, so it is all there
        return True

    def waits_for(self) -> str:
        return f"{self._name}: no answer"

    def close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
            if not self._collected:
                os.kill(self._pid, _signal.SIGKILL)  # not collected yet, so the number is still its own


def _look_blocking(probe: Probe, host: str, port: int, env: dict[str, str], writing: int) -> NoReturn:
    try:
        _signal.set_wakeup_fd(-1)
        os.setsid()
        _platform.set_pdeathsig(_signal.SIGKILL)
        close_all_except([writing])
        point_stdio_at_null()
        os.environ.update(env)  # SSL_CERT_FILE, say
        os.write(writing, wire.dumps(_speak(probe, host, port)).encode())
    finally:
        os._exit(0)


def _speak(probe: Probe, host: str, port: int) -> tuple[bool, str]:
    import socket

    name = f"{host}:{port}"
    try:
        with socket.create_connection((host, port), timeout=probe.timeout) as plain:
            if not probe.http:
                return True, f"{name} accepts connections"
            from safesh.supervise.probe_http import Address, Answer, request

            address, answer = Address(probe.http), Answer(probe)
            stream = plain
            if address.secure:
                import ssl

                stream = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            stream.sendall(request(address))
            while not answer.done:
                answer.feed(stream.recv(_CHUNK))
            ok, text = answer.verdict()
            return ok, text if ok else f"{name}: {text}"
    except OSError as error:
        return False, f"{name}: {error.strerror or error}"
