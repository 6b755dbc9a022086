"""Letters, rations and recipients, by a clock of the test's own; and the page that describes them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from safesh import _schema
from safesh.clock import parse_duration
from safesh.model import Hook, TargetSpec
from safesh.supervise import letters, recipients
from safesh.supervise.events import EventLog
from safesh.supervise.letters import Ration

ROOT = Path(__file__).resolve().parents[2]


def letter(event: str = "limit", message: str = "memory limit", target: str = "t") -> dict[str, Any]:
    return {"event": event, "message": message, "target": target, "repeated": 0, "dropped": 0}


# --- the ration


def test_the_same_event_is_told_once_in_a_window() -> None:
    ration = Ration(60.0)
    assert ration.admit(letter(), 0.0)
    assert not ration.admit(letter(), 1.0)
    assert not ration.admit(letter(), 59.9)


def test_numbers_do_not_make_a_message_another_one() -> None:
    ration = Ration(60.0)
    assert ration.admit(letter(message="memory limit 512 MiB, used 530.5 MiB"), 0.0)
    assert not ration.admit(letter(message="memory limit 512 MiB, used 1.25 MiB"), 1.0)


@pytest.mark.parametrize("other", [letter(event="failed"), letter(message="cpu limit"), letter(target="u")])
def test_another_event_message_or_target_is_told(other: dict[str, Any]) -> None:
    ration = Ration(60.0)
    assert ration.admit(letter(), 0.0)
    assert ration.admit(other, 0.0)


def test_what_was_held_back_is_told_once_at_the_windows_end_with_its_count() -> None:
    ration = Ration(60.0)
    ration.admit(letter(), 0.0)
    for second in range(1, 6):
        ration.admit({**letter(), "at": second}, float(second))
    assert ration.due() == 60.0
    assert ration.release(59.0) == []
    told = ration.release(60.0)
    assert [(one["at"], one["repeated"]) for one in told] == [(5, 4)]  # itself, and four more
    assert ration.due() is None
    assert not ration.admit(letter(), 61.0), "a released letter opens a window, too"


def test_a_late_tick_loses_no_count() -> None:
    ration = Ration(60.0)
    ration.admit(letter(), 0.0)
    ration.admit(letter(), 1.0)
    fresh = letter()
    assert ration.admit(fresh, 70.0)
    assert fresh["repeated"] == 1


def test_nothing_held_back_wakes_nobody() -> None:
    ration = Ration(60.0)
    ration.admit(letter(), 0.0)
    assert ration.due() is None


def test_every_0_tells_everything() -> None:
    ration = Ration(0.0)
    assert all(ration.admit(letter(), 0.0) for _ in range(100))


def test_a_flood_of_different_messages_is_remembered_only_so_far() -> None:
    ration = Ration(1e9)
    for number in range(5000):
        ration.admit(letter(message="abcdefghij"[number % 10] * (number // 10 + 1)), 0.0)
    assert len(ration._told) == letters.MOST_RATIONED


@pytest.mark.parametrize(
    ("message", "same"),
    [
        ("", ""),
        ("no number", "no number"),
        ("12 of 7", "# of #"),
        ("1.5 s. 2", "# s. #"),
        ("code 1", "code #"),
    ],
)
def test_alike(message: str, same: str) -> None:
    assert letters.alike(message) == same


# --- time


def test_pauses_grow_and_have_a_ceiling() -> None:
    assert [letters.pause(n) for n in (1, 2, 3, 4)] == [1, 2, 4, 8]
    assert letters.pause(10**9) == letters.LONGEST_PAUSE


@pytest.mark.parametrize(
    ("hook", "count", "seconds"),
    [
        (Hook(timeout=10.0, retries=2), 1, 33.0),
        (Hook(timeout=10.0, retries=2), 5, 43.0),
        (Hook(timeout=10.0, retries=0), 1, 10.0),
        (Hook(timeout=1.0, retries=10**9), 1, letters.LONGEST_LIFE),
        (Hook(timeout=1e300, retries=10**9), 1, letters.LONGEST_TIMEOUT),
    ],
)
def test_a_couriers_life_is_bounded_whatever_is_configured(hook: Hook, count: int, seconds: float) -> None:
    assert letters.life(hook, count) == seconds


# --- recipients


def spec_with(*hooks: Hook) -> TargetSpec:
    return TargetSpec(name="t", instance="t", project="p", command=["true"], cwd="/", notify=list(hooks))


def test_a_queue_drops_its_oldest_and_says_how_many() -> None:
    (one,) = recipients.recipients_of(spec_with(Hook(command=["x"])), 0)
    for number in range(recipients.MOST_WAITING + 7):
        one.put({**letter(), "at": number})
    assert len(one.queue) == recipients.MOST_WAITING
    first, second = one.take(2)
    assert (first["at"], first["dropped"]) == (7, 7)
    assert (second["at"], second["dropped"]) == (8, 0)
    assert one.take(1)[0]["dropped"] == 0


def test_each_url_is_a_recipient_of_its_own_and_its_label_hides_it() -> None:
    hook = Hook(command=["x"], urls=["json://secret@a", "json://b"])
    found = recipients.recipients_of(spec_with(Hook(command=["y"]), hook), 1)
    assert [one.label for one in found] == ["notify[1].command", "notify[1].urls[0]", "notify[1].urls[1]"]
    order = found[1].order(EventLog("/nowhere", "t"), [letter()])
    assert (order["url"], order["command"]) == ("json://secret@a", [])


# --- the page


def test_the_page_tells_every_key_of_a_hook_with_its_default() -> None:
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `notify\[\]\.([a-z]+)` \| ([^|]*) \|", page, re.MULTILINE))
    defaults = Hook().to_dict()
    assert rows.keys() == defaults.keys()
    for key, cell in rows.items():
        if cell.startswith("`"):
            told = tomllib.loads(f"x = {cell.strip('` ')}")["x"]
            assert (parse_duration(told) if isinstance(told, str) else told) == defaults[key], key
        else:
            assert not defaults[key], key


@pytest.mark.parametrize("page", ["config.md", "notifications.md"])
def test_the_pages_name_every_event_and_only_those(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| \*\*([a-z]+)\*\* \|", text, re.MULTILINE)) == _schema.EVENTS


def test_the_page_describes_every_field_of_a_letter() -> None:
    record = {key: "" for key in ("project", "instance", "target", "run_id", "state")}
    made = letters.write_letter("failed", "why", {**record, "main": None, "restarts": 0, "last_exit": None})
    text = (ROOT / "docs" / "notifications.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE) == list(made)
