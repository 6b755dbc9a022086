"""How one dashboard was started: what its pages look at, and what they may do."""

from __future__ import annotations

import hmac
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safesh.errors import UsageError

TOKEN = "SAFESH_DASHBOARD_TOKEN"  # by the environment: a command line can be read by everybody on the machine


@dataclass(frozen=True, slots=True)
class Settings:
    """config: the safe.toml named on the command line, "" for the one found from the working directory; plans: output
    folders of ``safe.sh run`` named there; read_only: no actions at all; token: what actions need, "" for nothing."""

    config: str = ""
    plans: tuple[str, ...] = ()
    read_only: bool = False
    token: str = ""

    @property
    def args(self) -> dict[str, str | None]:
        """What ``safesh.cli.targets`` wants to know."""
        return {"config": self.config or None, "target": None}

    def admits(self, told: str) -> bool:
        """Whether somebody who told this token may act."""
        if self.read_only:
            return False
        return not self.token or hmac.compare_digest(told.strip().encode(), self.token.encode())


def read(argv: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """From what ``safe.sh dashboard`` hands to the app; UsageError for a word that it does not know.

    ``streamlit run app.py -- --read-only`` gives the same words by hand.
    """
    words = list(argv)
    config, plans, read_only = "", [], False
    while words:
        word = words.pop(0)
        if word == "--read-only":
            read_only = True
        elif word in ("--config", "--plan") and words:
            value = os.path.abspath(words.pop(0))
            if word == "--config":
                config = value
            else:
                plans.append(value)
        else:
            raise UsageError(f"{word!r} is not understood", place="dashboard", hint="use --read-only, --config, --plan")
    return Settings(config, tuple(plans), read_only, environment.get(TOKEN, ""))


def check_exposure(settings: Settings, address: str | None) -> Settings:
    """``settings``, without actions where other machines could reach them without a token.

    address: what the server listens at, None or "" for every address. So it is when somebody starts the app by hand.
    """
    if settings.token or is_loopback(address or ""):
        return settings
    return Settings(settings.config, settings.plans, True, "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
