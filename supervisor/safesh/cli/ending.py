"""What ``stop``, ``kill-all`` and ``restart`` share: list, ask, end all at once, tell the verdicts."""

from __future__ import annotations

import select

from safesh import wire
from safesh.cli import render
from safesh.core.kill import poll_milliseconds
from safesh.instance.strays import Finder
from safesh.instance.view import InstanceView, look
from safesh.model import Member, StopPolicy, Verdict
from safesh.supervise import client
from safesh.supervise.strays_end import end_strays

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.cli.targets import Chosen


class Ending:
    """One instance to be ended, as it was found."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen
        self.view: InstanceView = look(chosen.paths, chosen.specs)
        self.inside = self.view.supervisor_alive and client.own_ancestor((self.view.holder or {}).get("pid", -1))

    def tidy(self) -> None:
        """Nobody is left; what the run's end could not remove goes now."""
        if self.view.lock == "free":
            Finder(self.chosen.paths.folder, self.chosen.name, self.view.record, []).remove_group()

    @property
    def held(self) -> bool:
        return self.view.supervisor_alive or self.view.keeper_alive

    @property
    def members(self) -> list[Member]:
        return [*self.view.tree, *self.view.strays]

    @property
    def target(self) -> str:
        if self.view.holder is not None and self.view.supervisor_alive:
            return str(self.view.holder.get("target"))
        return str((self.view.record or {}).get("target", self.chosen.name))

    def policy(self, args: dict[str, Any]) -> StopPolicy:
        """How its strays are asked: as its target says, with the command line's grace."""
        policy = next((spec.stop for spec in self.chosen.specs if spec.name == self.target), None)
        policy = policy or (self.chosen.specs[0].stop if self.chosen.specs else StopPolicy())
        grace = policy.grace if args["timeout"] is None else args["timeout"]
        return StopPolicy(signal=policy.signal, scope=policy.scope, grace=grace)


def confirm_ending(endings: list[Ending], args: dict[str, Any], verb: str) -> bool:
    """Show what would end and ask, unless ``--force``."""
    if args["force"]:
        return True
    from safesh.cli.confirm import confirm

    total = 0
    for one in endings:
        total += len(one.members)
        render.say(f"{one.chosen.name}: target {one.target}, {len(one.members)} processes")
        if one.members:
            render.say(render.members(one.members, indent=2))
    return confirm(f"{verb} {total} process{'es' if total != 1 else ''}?")


def end_all(endings: list[Ending], args: dict[str, Any]) -> list[tuple[Ending, Verdict]]:
    """End every instance, each as soon as what depends on it has ended: one slow stop delays nobody else."""
    waiting = list(endings)
    under_way: list[tuple[Ending, client.Request, bool]] = []
    done: list[tuple[Ending, Verdict]] = []
    while waiting or under_way:
        ended = [one for one, _verdict in done]
        for one in [one for one in waiting if all(user in ended for user in _users(one, endings))]:
            waiting.remove(one)
            request = client.Request(one.chosen.paths, "stop", args["timeout"], args["now"])
            under_way.append((one, request, one.view.supervisor_alive and request.ask()))
        first = _wait_for_one(under_way)
        under_way.remove(first)
        done.append((first[0], _finish(*first, args)))
    return done


def _users(one: Ending, endings: list[Ending]) -> list[Ending]:
    """Those of ``endings`` whose target depends on that of ``one``."""
    found = []
    for other in endings:
        needs = [need for spec in other.chosen.specs if spec.name == other.target for need in spec.depends_on]
        if one.target in needs and other is not one:
            found.append(other)
    return found


def _wait_for_one(
    under_way: list[tuple[Ending, client.Request, bool]],
) -> tuple[Ending, client.Request, bool]:
    """The first that can be finished without waiting for it."""
    watch = select.poll()
    by_fd = {}
    for one in under_way:
        talk = one[1].talk if one[2] else None
        if talk is None:
            return one
        by_fd[talk.fileno()] = one
        watch.register(talk.fileno(), select.POLLIN)
    deadline = min(one[1].deadline for one in under_way)
    ready = watch.poll(poll_milliseconds(deadline))
    return by_fd[ready[0][0]] if ready else min(under_way, key=lambda one: one[1].deadline)


def _finish(one: Ending, request: client.Request, asked: bool, args: dict[str, Any]) -> Verdict:
    policy = one.policy(args)
    verdict = Verdict(target=one.target)
    answer = request.wait() if asked else None
    if answer is not None or (asked and request.talk is None):
        verdict = request.verdict
    elif one.held:
        verdict = client.end_without_supervisor(one.chosen.paths, policy, now=args["now"])
    view = look(one.chosen.paths, one.chosen.specs)
    patterns = [(spec.name, spec.match) for spec in one.chosen.specs]
    finder = Finder(one.chosen.paths.folder, one.chosen.name, view.record, patterns)
    if view.strays:
        more = end_strays(finder, policy, view.held, now=args["now"])
        verdict.asked += more.asked
        verdict.killed += more.killed
        verdict.survivors += more.survivors
        verdict.seconds += more.seconds
        verdict.notes += more.notes
    if not view.supervisor_alive and not view.keeper_alive:
        finder.remove_group()
    verdict.target = verdict.target or one.target
    return verdict


def report(results: list[tuple[Ending, Verdict]], args: dict[str, Any], idle: list[str]) -> int:
    """Print the verdicts; 0 for zero survivors, 1 otherwise. idle: names of what was not running."""
    if args["json"]:
        lines = [{"instance": one.chosen.name, "ok": verdict.ok, **verdict.to_dict()} for one, verdict in results]
        print(wire.dumps({"v": 1, "verdicts": lines, "not_running": idle}))
    else:
        for name in idle:
            print(f"{name}: not running")
        for one, verdict in results:
            print(render.verdict(verdict) if verdict.target else f"{one.chosen.name}: ended")
    return 0 if all(verdict.ok for _one, verdict in results) else 1
