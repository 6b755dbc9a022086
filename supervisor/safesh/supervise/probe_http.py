"""HTTP/1.1 as far as a probe needs it: one GET, a status, the beginning of a body. No input or output here.

RFC 9112 for the message, RFC 9110 for the statuses. Redirects are not followed: a probe asks about this address.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from safesh.model import Probe

_HEAD_LIMIT = 65536
_BODY_LIMIT = 65536
_RAW_LIMIT = _HEAD_LIMIT + 4 * _BODY_LIMIT  # chunks of one byte cost six on the line


class Address:
    """Where a URL leads. path: with its query, ready for the request line; user: ``name:password`` or ""."""

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        self.secure = scheme.lower() == "https"
        cut = min((index for index in map(rest.find, "/?#") if index >= 0), default=len(rest))
        authority, path = rest[:cut], rest[cut:].partition("#")[0]
        self.user, _, place = authority.rpartition("@")
        host, colon, port = place.rpartition(":")
        if not colon or "]" in port:
            host, port = place, ""
        self.host = host.strip("[]")
        self.port = int(port) if port else 443 if self.secure else 80
        self.shown_host = place
        self.path = _quote(path if path.startswith("/") else "/" + path)


def _quote(path: str) -> str:
    return "".join(chr(byte) if 32 < byte < 127 else f"%{byte:02X}" for byte in path.encode())


def request(address: Address) -> bytes:
    """The whole request; the connection ends with its answer."""
    lines = [f"GET {address.path} HTTP/1.1", f"Host: {address.shown_host}", "User-Agent: safesh", "Accept: */*"]
    if address.user:
        from binascii import b2a_base64

        lines.append("Authorization: Basic " + b2a_base64(_unquote(address.user), newline=False).decode())
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("ascii", "backslashreplace")


def _unquote(text: str) -> bytes:
    head, *rest = text.encode().split(b"%")
    out = head
    for part in rest:
        try:
            out += bytes([int(part[:2], 16)]) + part[2:]
        except ValueError:
            out += b"%" + part
    return out


class Answer:
    """What came back so far. done: nothing more is needed; then :meth:`verdict` tells."""

    def __init__(self, probe: Probe) -> None:
        self.done = False
        self._probe = probe
        self._data = b""
        self._taken = 0
        self._wrong = ""
        self._status = 0
        self._location = ""
        self._length = -1
        self._chunked = False
        self._body: bytes | None = None  # None: the head is not whole yet

    def feed(self, data: bytes) -> None:
        """More bytes; b"" for the end of the connection."""
        if self.done:
            return
        self._data += data
        self._taken += len(data)
        if self._body is None:
            self._read_head()
        if self._body is not None:
            self._read_body(ended=not data)
        if self._taken > _RAW_LIMIT:
            self._fail("its answer has no end")
        if not data:
            self._fail("it closed the connection without an answer" if not self._taken else "it broke off its answer")

    def progress(self) -> str:
        """What is missing, for the message of a timeout."""
        if not self._taken:
            return "connected, but no answer"
        return f"{self._taken} bytes of an answer, but no end of its {'head' if self._body is None else 'body'}"

    def _fail(self, why: str) -> None:
        """Unless it is done already, with whatever result."""
        if not self.done:
            self._wrong = why
            self.done = True

    def _read_head(self) -> None:
        if not self._data[:5].upper().startswith(b"HTTP/"[: len(self._data)]):
            self._fail(f"does not speak HTTP: {self._data[:40]!r}")
            return
        while (end := self._head_end()) > 0:
            head = self._data[:end].decode("latin-1").replace("\r\n", "\n").rstrip("\n")
            self._data = self._data[end:]
            first, *lines = head.split("\n")
            words = first.split(None, 2)
            code = words[1] if len(words) > 1 else ""
            # Anew after an interim answer: what follows it need not be one.
            if not (first[:5].upper() == "HTTP/" and len(code) == 3 and code.isascii() and code.isdigit()):
                self._fail(f"does not speak HTTP: {first[:40]!r}")
                return
            self._status = int(code)
            if 100 <= self._status < 200 and self._status != 101:
                continue  # interim: the answer is still to come
            self._read_fields(lines)
            if not self._probe.body or self._status in (101, 204, 304):
                self.done = True
            self._body = b""
            return
        if len(self._data) > _HEAD_LIMIT:
            self._fail(f"its answer's head is longer than {_HEAD_LIMIT // 1024} KiB")

    def _head_end(self) -> int:
        ends = [self._data.find(mark) + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if mark in self._data]
        return min(ends, default=0)

    def _read_fields(self, lines: list[str]) -> None:
        for line in lines:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "location":
                self._location = value
            elif name == "content-length" and value.isascii() and value.isdigit():
                self._length = int(value[:18])
            elif name == "transfer-encoding":
                self._chunked = value.lower().endswith("chunked")

    def _read_body(self, *, ended: bool) -> None:
        if self.done:
            return
        body, whole = _unchunk(self._data) if self._chunked else (self._data, False)
        if not self._chunked and 0 <= self._length <= len(body):
            body, whole = body[: self._length], True
        self._body = body[:_BODY_LIMIT]
        self.done = whole or ended or len(body) >= _BODY_LIMIT

    def verdict(self) -> tuple[bool, str]:
        """(whether the answer is a good one, one line why)."""
        if self._wrong:
            return False, self._wrong
        text = f"HTTP {self._status}"
        if self._location and 300 <= self._status < 400:
            text += f" to {self._location[:100]} (not followed)"
        if not accepts(self._probe.status, self._status):
            return False, f"{text}, expected {self._probe.status}"
        if self._probe.body:
            import re  # paid for by those who ask for a pattern

            if not re.search(self._probe.body, (self._body or b"").decode("utf-8", "replace")):
                return False, f"{text}, but {len(self._body or b'')} bytes of body without {self._probe.body!r}"
        return True, text


def _unchunk(data: bytes) -> tuple[bytes, bool]:
    """(the body so far, whether it is whole); what is no chunk ends it (RFC 9112, 7.1)."""
    body, at = b"", 0
    while (end := data.find(b"\n", at)) >= 0:
        size = data[at:end].partition(b";")[0].strip()
        try:
            length = int(size, 16)
        except ValueError:
            return body, True
        if length <= 0:
            return body, True
        body += data[end + 1 : end + 1 + length]
        if len(body) >= _BODY_LIMIT:
            return body, True
        at = end + 1 + length + (2 if data[end + 1 + length :][:1] == b"\r" else 1)
    return body, False


def accepts(statuses: str, status: int) -> bool:
    """Whether ``status`` is in a list such as ``200-299,401``."""
    for part in statuses.split(","):
        low, _, high = part.partition("-")
        if int(low) <= status <= int(high or low):
            return True
    return False
