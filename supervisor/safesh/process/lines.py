"""Lines out of pieces: bytes as they come from a pipe, cut at newlines, decoded on the way."""

from __future__ import annotations

import codecs
import threading
from typing import AnyStr, Generic

_SMALL = 512  # pieces of an unfinished line below this length are merged


class LineSplitter:
    r"""Cuts a stream into lines at ``\n`` alone, without it and without one ``\r`` before it.

    encoding: how the bytes become text; None: lines are bytes. errors: as for ``bytes.decode``, but "strict" never
    raises: what cannot be decoded comes as "backslashreplace" writes it (``\xff``) and is counted.
    decode_errors: undecodable stretches met so far with errors="strict".
    LookupError: no such text encoding or error handler, or one that cannot be decoded piece by piece.
    """

    def __init__(self, encoding: str | None = "utf-8", errors: str = "replace") -> None:
        self.decode_errors = 0
        self._bytes: _Cutter[bytes] | None = None
        if encoding is None:
            self._bytes = _Cutter(b"\n", b"\r")
            return
        self._text = _Cutter("\n", "\r")
        self._strict = errors == "strict"
        codecs.lookup_error(errors)
        info = codecs.lookup(encoding)
        name = _COUNTED if self._strict else errors
        try:
            if not getattr(info, "_is_text_encoding", True) or info.incrementaldecoder is None:
                raise UnicodeError
            self._decoder = info.incrementaldecoder(name)
            self._decoder.decode(b"", True)
        except UnicodeError:
            raise LookupError(f"{encoding!r} is no encoding that text can be read in, piece by piece") from None

    def feed(self, data: bytes) -> list[str] | list[bytes]:
        """The lines that are complete now. Never raises; the time is linear in what was fed, however long a line."""
        if self._bytes is not None:
            return self._bytes.cut(data)
        return self._text.cut(self._decode(data, False))

    def flush(self) -> list[str] | list[bytes]:
        r"""The stream has ended: what is left, an unterminated line last (its ``\r`` is kept). May be fed anew."""
        if self._bytes is not None:
            return self._bytes.rest()
        text = self._decode(b"", True)
        self._decoder.reset()
        return self._text.cut(text) + self._text.rest()

    def _decode(self, data: bytes, final: bool) -> str:
        if not self._strict:
            return self._decoder.decode(data, final)
        before = _tally.errors
        text = self._decoder.decode(data, final)
        self.decode_errors += _tally.errors - before
        return text


class _Cutter(Generic[AnyStr]):
    def __init__(self, newline: AnyStr, carriage_return: AnyStr) -> None:
        self._newline: AnyStr = newline
        self._return: AnyStr = carriage_return
        self._both: AnyStr = carriage_return + newline
        self._parts: list[AnyStr] = []  # of the line that is not finished yet; joined once

    def cut(self, data: AnyStr) -> list[AnyStr]:
        newline, parts = self._newline, self._parts
        if newline not in data:
            if data:
                if parts and len(data) < _SMALL and len(parts[-1]) < _SMALL:
                    parts[-1] += data
                else:
                    parts.append(data)
            return []
        lines = (data.replace(self._both, newline) if self._both in data else data).split(newline)
        if parts:
            if data.startswith(newline) and parts[-1].endswith(self._return):
                parts[-1] = parts[-1][:-1]  # the two came in different pieces
            parts.append(lines[0])
            lines[0] = newline[:0].join(parts)
            parts.clear()
        last = lines.pop()
        if last:
            parts.append(last)
        return lines

    def rest(self) -> list[AnyStr]:
        line = self._newline[:0].join(self._parts)
        self._parts.clear()
        return [line] if line else []


class _Tally(threading.local):
    """Errors met by this thread's decoders: an error handler is found by name, so it cannot know its splitter."""

    errors = 0


_tally = _Tally()
_COUNTED = "safesh.backslashreplace"


def _count(error: UnicodeError) -> tuple[str | bytes, int]:
    _tally.errors += 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(_COUNTED, _count)
