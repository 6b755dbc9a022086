"""What ``stop``, ``kill-all`` and ``restart`` share: list, ask, end all at once, tell the verdicts."""

from __future__ import annotations

from safesh import wire
from safesh.cli import render
from safesh.instance.strays import Finder
from safesh.instance.view import InstanceView, look
from safesh.model import Member, StopPolicy, Verdict
from safesh.supervise import client, launch

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
    """End every instance, all asked before the first is waited for: one slow stop delays nobody."""
    under_way: list[tuple[Ending, client.Request, bool]] = []
    for one in endings:
        request = client.Request(one.chosen.paths, "stop", args["timeout"], args["now"])
        under_way.append((one, request, one.view.supervisor_alive and request.ask()))
    return [(one, _finish(one, request, asked, args)) for one, request, asked in under_way]


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
        held = [member.pid for member in view.tree]
        more = launch.end_strays(finder, policy, held, now=args["now"])
        verdict.asked += more.asked
        verdict.killed += more.killed
        verdict.survivors += more.survivors
        verdict.seconds += more.seconds
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
