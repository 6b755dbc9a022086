"""Records: construction, equality, plain data there and back."""

from __future__ import annotations

import pytest

from safesh import model, wire

SPEC = model.TargetSpec(
    name="a",
    instance="robot",
    project="arm",
    command=["true"],
    cwd="/",
    env={"A": "1"},
    backoff=model.Backoff(initial=9.0),
    stop=model.StopPolicy(signal="SIGINT", scope="tree"),
    log=model.LogPolicy(size=1),
)
MEMBER = model.Member(pid=1, start=2, command="x")
VERDICT = model.Verdict(target="a", asked=[MEMBER], survivors=[MEMBER], notes=["n"])
RECORDS = [SPEC, VERDICT, MEMBER, model.ExitInfo(code=3), model.Identity(pid=1, start=2, boot="b")]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_the_way_through_json(record: model.Record) -> None:
    assert type(record).from_dict(wire.loads(wire.dumps(record))) == record


def test_nested_records_come_back_as_records() -> None:
    again = model.TargetSpec.from_dict(SPEC.to_dict())
    assert isinstance(again.stop, model.StopPolicy)
    assert isinstance(model.Verdict.from_dict(VERDICT.to_dict()).asked[0], model.Member)


def test_a_newer_versions_keys_are_passed_over() -> None:
    assert model.Identity.from_dict({"pid": 1, "start": 2, "boot": "b", "mood": "good"}).pid == 1


def test_unknown_and_missing_fields_are_type_errors() -> None:
    with pytest.raises(TypeError, match="StopPolicy has no field 'grce'"):
        model.StopPolicy(grce=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Identity needs 'boot'"):
        model.Identity(pid=1, start=2)  # type: ignore[call-arg]


def test_no_two_records_share_a_default() -> None:
    first, second = model.Verdict(), model.Verdict()
    first.notes.append("x")
    assert second.notes == []
    assert model.Verdict.notes == []
    one = model.TargetSpec(name="a", instance="a", project="p", command=["x"], cwd="/")
    one.stop.grace = 99.0
    one.env["A"] = "1"
    other = model.TargetSpec(name="a", instance="a", project="p", command=["x"], cwd="/")
    assert (other.stop.grace, other.env) == (10.0, {})


def test_plain_data_shares_nothing_with_its_record() -> None:
    plain = SPEC.to_dict()
    plain["env"]["B"] = "2"
    plain["command"].append("x")
    assert (SPEC.env, SPEC.command) == ({"A": "1"}, ["true"])


def test_records_are_equal_by_type_and_value_and_not_hashable() -> None:
    assert model.Backoff() == model.Backoff(initial=1.0)
    assert model.Backoff() != model.Backoff(initial=2.0)
    assert model.StartLimit() != model.Backoff()
    with pytest.raises(TypeError, match="unhashable"):
        hash(MEMBER)


def test_a_record_shows_its_fields() -> None:
    assert repr(model.Identity(pid=1, start=2, boot="b")) == "Identity(pid=1, start=2, boot='b')"


def test_only_a_tree_without_survivors_was_stopped() -> None:
    assert model.Verdict(killed=[MEMBER]).ok
    assert not VERDICT.ok
    assert model.ExitInfo(code=0).ok
    assert not model.ExitInfo(code=-1, signal="SIGKILL").ok


def test_the_states_are_those_of_the_type_and_live_ones_are_among_them() -> None:
    assert set(model.LIVE_STATES) < set(model.STATES)
    assert len(set(model.STATES)) == len(model.STATES)
