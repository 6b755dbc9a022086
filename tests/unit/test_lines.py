"""Lines are what decoding and cutting the whole would give, however the bytes were cut on their way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesh.process.lines import LineSplitter

quick = settings(max_examples=300, deadline=None, derandomize=True)

HANDLERS = ["strict", "replace", "ignore", "surrogateescape", "backslashreplace"]
alphabet = st.sampled_from(["a", "\n", "\r", "\r\n", "\0", "é", "€", "𝄞", "\u2028", "\x85", "\f"])
texts = st.lists(alphabet, max_size=40).map("".join)
# Bytes near the things that go wrong: cut characters, lone continuation bytes, newlines beside them.
dirty = st.lists(
    st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"\0", b"\xe2", b"\xe2\x82", b"\xac", b"\xff", b"\xc3\xa9"]),
    max_size=30,
).map(b"".join)
cuts = st.lists(st.integers(0, 6), max_size=60)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    found = []
    for cut in cuts:
        found.append(data[:cut])
        data = data[cut:]
    return [*found, data]


def split(splitter: LineSplitter, parts: list[bytes]) -> list[str | bytes]:
    lines: list[str | bytes] = []
    for part in parts:
        lines += splitter.feed(part)
    return [*lines, *splitter.flush()]


def expected_text(text: str) -> list[str]:
    *lines, rest = text.split("\n")
    return [line.removesuffix("\r") for line in lines] + ([rest] if rest else [])


@quick
@given(dirty, cuts, st.sampled_from(HANDLERS))
def test_any_bytes_in_any_pieces_are_the_whole_decoded_and_cut(data: bytes, cuts: list[int], errors: str) -> None:
    handler = "backslashreplace" if errors == "strict" else errors
    assert split(LineSplitter("utf-8", errors), pieces(data, cuts)) == expected_text(data.decode("utf-8", handler))


@quick
@given(texts, cuts, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "utf-7", "gb18030"]))
def test_any_encoding_is_right_whatever_its_newline_looks_like(text: str, cuts: list[int], encoding: str) -> None:
    splitter = LineSplitter(encoding, "strict")
    assert split(splitter, pieces(text.encode(encoding), cuts)) == expected_text(text)
    assert splitter.decode_errors == 0


@quick
@given(dirty, cuts)
def test_without_an_encoding_lines_are_the_very_bytes(data: bytes, cuts: list[int]) -> None:
    *lines, rest = data.split(b"\n")
    expected = [line.removesuffix(b"\r") for line in lines] + ([rest] if rest else [])
    assert split(LineSplitter(None, "strict"), pieces(data, cuts)) == expected


@quick
@given(dirty, cuts)
def test_errors_are_counted_alike_however_the_bytes_were_cut(data: bytes, cuts: list[int]) -> None:
    whole, cut = LineSplitter("utf-8", "strict"), LineSplitter("utf-8", "strict")
    split(whole, [data])
    split(cut, pieces(data, cuts))
    assert cut.decode_errors == whole.decode_errors
    try:
        data.decode()
    except UnicodeDecodeError:
        assert whole.decode_errors > 0
    else:
        assert whole.decode_errors == 0


def test_strict_never_raises_but_shows_and_counts_what_it_could_not_decode() -> None:
    splitter = LineSplitter("utf-8", "strict")
    assert splitter.feed(b"good\nbad \xff\xfe\ngo") == ["good", r"bad \xff\xfe"]
    assert splitter.decode_errors == 2
    assert splitter.feed(b"od\n\xe2\x82") == ["good"]
    assert splitter.flush() == [r"\xe2\x82"]
    assert splitter.decode_errors == 3


def test_strict_is_counted_in_utf_16_too() -> None:
    splitter = LineSplitter("utf-16-le", "strict")
    assert splitter.feed("a\n".encode("utf-16-le") + b"\x00\xdc" + "b\n".encode("utf-16-le")) == ["a", r"\x00\xdcb"]
    assert splitter.decode_errors == 1


def test_surrogateescape_gives_the_bytes_back() -> None:
    (line,) = LineSplitter("utf-8", "surrogateescape").feed(b"\xff\0\xfe\n")
    assert isinstance(line, str)
    assert line.encode("utf-8", "surrogateescape") == b"\xff\0\xfe"


def test_a_line_is_given_as_soon_as_it_is_complete() -> None:
    splitter = LineSplitter("utf-8", "replace")
    assert splitter.feed(b"one\ntw") == ["one"]
    assert splitter.feed(b"o") == []
    assert splitter.feed(b"\n") == ["two"]
    assert splitter.flush() == []


def test_only_one_carriage_return_goes_and_only_before_a_newline() -> None:
    splitter = LineSplitter(None, "strict")
    assert splitter.feed(b"a\r\r\nb\rc\r") == [b"a\r"]
    assert splitter.feed(b"\nd\r") == [b"b\rc"]
    assert splitter.flush() == [b"d\r"]


def test_it_may_be_used_again_after_the_end() -> None:
    splitter = LineSplitter("utf-16", "strict")
    for _ in range(2):
        assert [*splitter.feed("a\nb".encode("utf-16")), *splitter.flush()] == ["a", "b"]


@pytest.mark.parametrize("encoding", ["no-such", "hex", "rot13", "idna", "undefined"])
def test_what_is_no_stream_encoding_is_refused_at_once(encoding: str) -> None:
    with pytest.raises(LookupError, match=encoding):
        LineSplitter(encoding, "strict")


def test_an_unknown_error_handler_is_refused_at_once() -> None:
    with pytest.raises(LookupError, match="no-such"):
        LineSplitter("utf-8", "no-such")


def test_splitters_of_two_threads_count_each_its_own() -> None:
    splitters = [LineSplitter("utf-8", "strict") for _ in range(2)]

    def feed(splitter: LineSplitter, bad: bytes) -> None:
        for _ in range(3000):
            splitter.feed(bad)

    threads = [threading.Thread(target=feed, args=pair) for pair in zip(splitters, [b"\xff\n", b"x\n"], strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [splitter.decode_errors for splitter in splitters] == [3000, 0]


def fastest(work: Callable[[], object], times: int = 3) -> float:
    best = float("inf")
    for _ in range(times):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return best


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", None])
def test_a_long_line_in_small_pieces_costs_linear_time(encoding: str | None) -> None:
    def work(count: int) -> None:
        splitter = LineSplitter(encoding, "strict")
        for _ in range(count):
            splitter.feed(b"x\0x\0x\0x\0")
        assert len(splitter.flush()) == 1

    assert fastest(lambda: work(160_000)) < 24 * fastest(lambda: work(20_000))  # 8 times the bytes; 64 if quadratic


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", None])
def test_a_long_line_in_big_pieces_costs_no_more_than_a_few_joins(encoding: str | None) -> None:
    piece = b"x\0" * (1 << 15)
    count = 800  # 52 MB; copying the line for each piece would cost some 400 joins

    def cut() -> None:
        splitter = LineSplitter(encoding, "strict")
        for _ in range(count):
            assert splitter.feed(piece) == []
        assert len(splitter.flush()) == 1

    def join() -> None:
        if encoding is None:
            b"".join([bytes(bytearray(piece)) for _ in range(count)])
        else:
            "".join([piece.decode(encoding) for _ in range(count)])

    assert fastest(cut) < 10 * fastest(join)


def test_a_line_of_100_megabytes_comes_whole() -> None:
    splitter = LineSplitter("utf-8", "strict")
    piece = b"0123456789abcdef" * 4096
    for _ in range(1526):
        assert splitter.feed(piece) == []
    (line,) = splitter.feed(b"\r\n")
    assert len(line) == 1526 * 65536 > 100_000_000
    assert isinstance(line, str)
    assert line.endswith("def")
