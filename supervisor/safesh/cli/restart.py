"""``restart``: end a target's tree and start it anew as safe.toml says now, without letting go of its lock."""

from __future__ import annotations

from safesh import config as configs
from safesh import wire
from safesh.cli import ending, render, start, targets
from safesh.errors import SafeshError, UsageError
from safesh.supervise import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from safesh.config import Config


def run(args: dict[str, Any]) -> int:
    """0 when every one runs again; a target that was not running is started detached."""
    config = targets.open_config(args)
    chosen = targets.choose(config, args["targets"])
    endings = [ending.Ending(one) for one in chosen]
    live = [one for one in endings if one.held or one.members]
    if not args["targets"]:
        endings = live
    if not endings:
        raise UsageError("nothing runs", hint="safe.sh start TARGET")
    if live and not ending.confirm_ending(live, args, "Restart"):
        raise UsageError("nothing was restarted")
    worst = 0
    for one in endings:
        name = next((name for name in args["targets"] if name in {spec.name for spec in one.chosen.specs}), one.target)
        worst = max(worst, _restart(one, name, config, args))
    return worst


def _restart(one: ending.Ending, name: str, config: Config | None, args: dict[str, Any]) -> int:
    if one.view.supervisor_alive and name not in (one.target, one.chosen.name):
        raise UsageError(
            f"not running: instance {one.chosen.name} is held by {one.target}",
            place=name,
            hint=f"safe.sh start {name} --replace, or safe.sh restart {one.target}",
        )
    name = one.target if name == one.chosen.name else name
    known = config is not None and name in config.targets
    spec = configs.resolve(config, name) if config is not None and known else None
    if one.view.supervisor_alive:
        request = client.Request(one.chosen.paths, "restart", args["timeout"], args["now"])
        if request.ask(spec.to_dict() if spec is not None else None):
            answer = request.wait()
            if answer is not None and answer.get("restarted"):
                if args["json"]:
                    print(wire.dumps({"v": 1, "target": name, "instance": one.chosen.name, **answer}))
                else:
                    print(f"{render.style(name, 'name')} runs again (pid {answer['pid']})")
                return 0
            message = (answer or {}).get("message") or "the supervisor ended"
            raise SafeshError(f"did not come back: {message}", place=name, hint=f"safe.sh logs {name}")
    if one.held or one.members:
        (_one, verdict) = ending.end_all([one], args)[0]
        if not verdict.ok:
            return ending.report([(one, verdict)], args, [])
    if spec is None:
        raise UsageError(f"{name} is not in safe.toml, so it can be restarted only while it runs", hint="safe.sh start")
    again = {**args, "targets": [name], "all": False, "command": [], "detach": True, "replace": False, "timeout": None,
             "if_fits": False, "anyway": True}  # fmt: skip  # what ran a moment ago is not looked at for room again
    return start.run(again)
