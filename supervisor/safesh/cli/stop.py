"""``stop``: end the trees of targets, strays included, and say what became of every process."""

from __future__ import annotations

from safesh.cli import ending, render, targets
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(args: dict[str, Any]) -> int:
    """0 zero survivors, 1 survivors, 2 not confirmed."""
    chosen = targets.choose_for_ending(args, args["targets"])
    if args["targets"]:
        chosen += targets.users_of(args, chosen)
    return end(chosen, args, named=args["targets"], verb="Stop")


def end(chosen: list[targets.Chosen], args: dict[str, Any], *, named: list[str], verb: str) -> int:
    """List, ask, end, report."""
    endings, idle = [], []
    for one in chosen:
        found = ending.Ending(one)
        if found.inside:
            if named:
                raise UsageError(
                    "this command runs inside it and would end itself",
                    place=one.name,
                    hint="run it from another terminal, or send SIGTERM to the pid in its pid file",
                )
            idle.append(f"{one.name} (this command runs inside it; left alone)")
        elif _wanted(found, named) and (found.held or found.members):
            endings.append(found)
        elif named and not set(named) & set(one.names()):
            continue  # it depends on one that was named, and does not run
        else:
            found.tidy()
            idle.append(_idle_name(found, named))
    if endings and not ending.confirm_ending(endings, args, verb):
        raise UsageError("nothing was ended")
    return ending.report(ending.end_all(endings, args), args, idle)


def _wanted(found: ending.Ending, named: list[str]) -> bool:
    """A name means its instance, or the target that runs in it, never another target that shares it."""
    names = {spec.name for spec in found.chosen.specs}
    asked = [name for name in named if name in names or name == found.chosen.name]
    if not asked or found.chosen.name in asked or not found.view.supervisor_alive:
        return True
    return found.target in asked


def _idle_name(found: ending.Ending, named: list[str]) -> str:
    if found.view.supervisor_alive:
        asked = " ".join(name for name in named if name != found.target)
        step = render.as_typed(f"safe.sh stop {found.target}")
        return f"{asked} (instance {found.chosen.name} is held by {found.target}: {step})"
    return found.chosen.name
