"""The rivals of a supervisor: an adapter each, all in the same form. Who is here, and why the others are not."""

from __future__ import annotations

from collections.abc import Sequence

from bench.rivals.base import Rival
from bench.rivals.circus import Circus
from bench.rivals.honcho import Honcho
from bench.rivals.monit import Monit
from bench.rivals.pm2 import Pm2
from bench.rivals.runit import Runit
from bench.rivals.s6 import S6
from bench.rivals.safesh import Safesh
from bench.rivals.small import DumbInit, Tini
from bench.rivals.supervisord import Supervisord
from bench.stage import BenchError, Stage

ALL = (Safesh, Supervisord, Circus, Honcho, Pm2, Runit, S6, Monit, Tini, DumbInit)


def find(stage: Stage, install: bool, wanted: Sequence[str] | None = None) -> tuple[list[Rival], dict[str, str]]:
    """Everybody who is here, ours first; missing[name] says why one is not. install: fetch them (install.py); wanted:
    look for no others.

    s6 is here only inside of bench.inside's mount namespace (see s6.py).
    """
    found: list[Rival] = []
    missing: dict[str, str] = {}
    for kind in ALL:
        if wanted is not None and kind.name not in wanted:
            continue
        try:
            found.append(kind.find(stage, install))
        except (BenchError, OSError) as error:
            missing[kind.name] = str(error).replace("\n", " ")[-300:]
    return found, missing
