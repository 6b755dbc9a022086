"""``run``: a plan, its steps started as early as they can be, seen live.

Two processes: this one becomes the guard (``core.init``), which is subreaper and holds the folder's lock, and ends
every step should the runner below it be killed; the runner ends them itself should the guard be.
"""

from __future__ import annotations

import os
import sys

from safesh import _platform
from safesh.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from safesh.plan.model import PlanSpec
    from safesh.plan.runner import Runner
else:
    import _signal

_GUARD = "SAFESH_PLAN_GUARD"  # <pid of the guard>:<descriptor of the lock>
_INTERRUPTED = 130  # 128 + SIGINT


def run(args: dict[str, Any]) -> int:
    """Run a plan. args: see the verb's row in ``grammar``; 0 when every step is completed."""
    if not args["target"]:
        raise UsageError("name the plan", place="run", hint="safe.sh run plan.json --output output/")
    # Until somebody listens there is nothing to end, and an exception may come out of the middle of any import.
    _signal.signal(_signal.SIGINT, lambda _number, _frame: os._exit(_INTERRUPTED))
    given = os.environ.pop(_GUARD, "")
    parent, _, lock = given.partition(":")
    if args["dry_run"]:
        return _show(args)
    if parent:
        _platform.set_pdeathsig(_signal.SIGTERM)  # before the look at who our parent is: it may die in between
    if parent != str(os.getppid()):
        return _guard(args)
    return _run(args, int(lock))


def _guard(args: dict[str, Any]) -> int:
    """Check the plan, take the folder, then be the init of the runner."""
    from safesh.core import init, initwait
    from safesh.plan.load import load_plan
    from safesh.plan.runner import hold_folder

    _check(args)
    plan = load_plan(args["target"])
    if args["if_fits"]:
        from safesh.cli.admission import check_plan

        check_plan(plan, args["output"])
    held = hold_folder(os.path.abspath(args["output"]))
    os.set_inheritable(held.fd, True)
    os.environ[_GUARD] = f"{os.getpid()}:{held.fd}"
    caller = initwait.take_over()
    options = init.Options()
    options.command = [*_ourselves(), *sys.argv[1:]]
    options.session = "keep"  # the terminal's keys and size are the runner's
    options.on_exit = "end"
    return init.run(options, caller, lambda text: print(f"safesh: {text}", file=sys.stderr))


def _ourselves() -> list[str]:
    import safesh

    main = os.path.join(os.path.dirname(safesh.__file__), "__main__.py")
    return [sys.executable, "-E", "-s", "-S", main]


def _check(args: dict[str, Any]) -> None:
    if args["fail_fast"] and args["keep_going"]:
        raise UsageError("one of them, please", place="--fail-fast --keep-going")
    if args["engine"] not in ("local", "dask"):
        raise UsageError(f"{args['engine']!r} is no engine", place="--engine", hint="use local or dask")
    if args["scheduler"] and args["engine"] != "dask":
        raise UsageError("needs --engine dask", place="--scheduler", hint="add --engine dask")
    if args["progress"] not in ("auto", "tty", "plain", "json", "quiet"):
        raise UsageError(
            f"{args['progress']!r} is no way to show progress", place="--progress", hint="auto, tty, plain, json, quiet"
        )


def _make(args: dict[str, Any], plan: PlanSpec, lock: int) -> Runner:
    from safesh.instance.lock import Lock
    from safesh.plan import past_times
    from safesh.plan.local import LocalEngine
    from safesh.plan.monitor import ExecutionMonitor
    from safesh.plan.notify import Notifier
    from safesh.plan.runner import Options, Runner

    output = os.path.abspath(args["output"])
    os.set_inheritable(lock, False)
    expected = past_times.load(plan)
    engine: Any = LocalEngine()
    if args["engine"] == "dask":
        from safesh.plan.dask_engine import DaskEngine

        engine = DaskEngine(args["scheduler"] or None)
        args["jobs"] = args["jobs"] or max(1, int(engine.capacity().get("cpu", 1)))
    monitor = ExecutionMonitor(
        plan.id, plan.description, progress=args["progress"], history=expected.get, colour=not args["no_color"]
    )
    notifier = Notifier(plan, output)
    options = Options(
        jobs=args["jobs"], fail_fast=args["fail_fast"], resume=args["resume"], notify=notifier if plan.notify else None
    )
    return Runner(plan, output, engine, monitor, options, expected, Lock(os.path.join(output, ".lock"), lock))


def _run(args: dict[str, Any], lock: int) -> int:
    from safesh.plan import past_times
    from safesh.plan.load import load_plan
    from safesh.vendor import add_site_packages

    add_site_packages()
    plan = load_plan(args["target"])
    runner = _make(args, plan, lock)
    try:
        state = runner.run()
    finally:
        runner.engine.close(now=False)
    past_times.save(plan, state)
    notifier: Any = runner.options.notify
    if notifier is not None:
        notifier.close()
        for problem in notifier.problems:
            print(f"safesh: notification not sent: {problem}", file=sys.stderr)
    seconds = {name: one.seconds for name, one in state.steps.items() if one.status == "completed"}
    runner.monitor.print_final_summary(least=runner.bounds(seconds).least, files=runner.files())
    if runner.interrupted > 0:
        return _INTERRUPTED
    return 0 if all(one.status in ("completed", "skipped") for one in state.steps.values()) else 1


def _show(args: dict[str, Any]) -> int:
    """What would be done, in the order it would start with one step at a time."""
    from safesh.plan import past_times
    from safesh.plan.load import load_plan
    from safesh.plan.schedule import Schedule
    from safesh.vendor import add_site_packages

    add_site_packages()
    _check(args)
    plan = load_plan(args["target"])
    expected = past_times.load(plan)
    steps = {step.id: step for step in plan.steps}
    capacities = dict(plan.resources)
    for step in plan.steps:
        for name, amount in step.resources.items():
            capacities.setdefault(name, max(amount, *(one.resources.get(name, 0.0) for one in plan.steps)))
    schedule = Schedule(plan.steps, capacities, args["jobs"] or os.cpu_count() or 1, expected)
    number = 0
    while ready := schedule.take():
        for name in ready:
            number += 1
            step = steps[name]
            after = f"  after {', '.join(step.depends_on)}" if step.depends_on else ""
            print(f"{number:>4}  {name}  {' '.join(step.command)}{after}")
        for name in list(schedule.running):
            schedule.ended(name, True)
    bounds = schedule.bounds()
    if expected:
        print(f"critical path {bounds.critical_path:.1f} s, all steps {bounds.work:.1f} s, by earlier runs")
    return 0
