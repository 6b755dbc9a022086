"""Which workers a step may sit on, from what they were started with; and the words where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from safesh.plan.model import StepSpec

SIZES = {"cpu": "nthreads", "memory": "memory_limit"}  # what is known of a worker that does not say


class Workers:
    """The cluster's workers as its scheduler tells of them.

    local: a cluster of our own, whose workers share one machine: the runner alone accounts for its resources.
    """

    def __init__(self, address: str, *, local: bool) -> None:
        self.address = address
        self.local = local
        self.known: dict[str, dict[str, Any]] = {}
        self.declared: set[str] = set()  # by any worker, ever: then a step that takes of it needs such a worker
        self.silent: set[str] = set()  # those that nothing is given to: lost, or without a heartbeat
        self._names: dict[str, str] = {}  # those that have gone are told of too
        self._seen: dict[str, tuple[Any, float]] = {}

    def update(self, told: Mapping[str, dict[str, Any]], now: float, patience: float) -> None:
        """told: by address, as ``Scheduler.identity`` has it. A heartbeat that stands still for ``patience`` seconds
        of our own clock makes a worker silent: the scheduler itself waits for minutes."""
        self.known = dict(told)
        for address, one in told.items():
            self.declared.update(one["resources"])
            self._names[address] = str(one.get("name") or address)
            beat, since = self._seen.get(address, (None, now))
            if one["last_seen"] != beat:
                self._seen[address] = (one["last_seen"], now)
                self.silent.discard(address)
            elif now - since > patience:
                self.silent.add(address)
        for address in self._seen.keys() - told.keys():
            del self._seen[address]
            self.silent.discard(address)

    def name(self, address: str) -> str:
        """As people know it: its address, and its name where it was given one."""
        name = self.own_name(address)
        return address if name == address else f"{name} ({address})"

    def own_name(self, address: str) -> str:
        return self._names.get(address, address)

    def capacity(self) -> dict[str, float]:
        found = dict.fromkeys(sorted(self.declared), 0.0)
        for one in self.known.values():
            for name, amount in one["resources"].items():
                found[name] += amount
        for name, size in SIZES.items():
            total = float(sum(one[size] or 0 for one in self.known.values()))
            if name not in self.declared and total:
                found[name] = total
        return found

    def place(self, step: StepSpec) -> tuple[dict[str, float], list[str] | None, str]:
        """(what to ask of dask, the workers it has to choose from or None for any, why there is none).

        ``cpu`` and ``memory`` that no worker declares only rule out workers that are too small. So does nothing for a
        token that no worker declares: it is a limit of the plan, which the runner keeps. A ``gpu`` needs a worker.
        """
        if not self.known:
            return {}, None, f"no worker is left at {self.address}"
        if self.local:
            asked, sizes = {}, {}
        else:
            taken = {name: amount for name, amount in step.resources.items() if amount > 0}
            asked = {name: amount for name, amount in taken.items() if name in self.declared or name == "gpu"}
            sizes = {SIZES[name]: amount for name, amount in taken.items() if name in SIZES and name not in asked}
        able = [
            address
            for address, one in self.known.items()
            if all(one["resources"].get(name, 0) >= amount for name, amount in asked.items())
            and all(not one[size] or one[size] >= amount for size, amount in sizes.items())
        ]
        if not able:
            return {}, None, self._explain(asked, sizes)
        fit = [address for address in able if address not in self.silent]
        if not fit:
            return {}, None, f"no heartbeat of {_some([self.name(one) for one in able])}"
        return asked, None if len(fit) == len(self.known) or (len(fit) == len(able) and not sizes) else fit, ""

    def _explain(self, asked: Mapping[str, float], sizes: Mapping[str, float]) -> str:
        words = []
        for name, amount in [*asked.items(), *((name, sizes[SIZES[name]]) for name in SIZES if SIZES[name] in sizes)]:
            have = {
                address: float(one["resources"].get(name, 0) if name in asked else one[SIZES[name]] or 0)
                for address, one in self.known.items()
            }
            best = max(have, key=have.__getitem__)
            if have[best] >= amount:
                continue
            most = f"the most is {have[best]:g}, of {self.name(best)}" if have[best] else "none of them has any"
            words.append(f"{name}={amount:g} ({most})")
        if not words:  # each is somewhere, but not together
            words = [f"{name}={amount:g}" for name, amount in asked.items()]
        names = _some([self.name(address) for address in self.known])
        return f"no worker has {' and '.join(words)}; there are {names}"


def _some(names: Collection[str], most: int = 4) -> str:
    shown = ", ".join(list(names)[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
