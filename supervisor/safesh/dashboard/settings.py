"""How one dashboard was started: what its pages look at, and what they may do."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from safesh.errors import UsageError

TOKEN = "SAFESH_DASHBOARD_TOKEN"  # by the environment: a command line can be read by everybody on the machine


@dataclass(frozen=True, slots=True)
class Settings:
    """config: the safe.toml named on the command line, "" for the one found from the working directory; plans: output
    folders of ``safe.sh run`` named there; read_only: no actions; token: what opens the pages, "" for nothing."""

    config: str = ""
    plans: tuple[str, ...] = ()
    read_only: bool = False
    token: str = ""

    @property
    def args(self) -> dict[str, str | None]:
        """What ``safesh.cli.targets`` wants to know."""
        return {"config": self.config or None, "target": None}

    def admits(self, told: str) -> bool:
        """Whether somebody who told this token may see the pages."""
        # In constant time, so that nobody finds a token letter by letter.
        return not self.token or hmac.compare_digest(_bytes(told.strip()), _bytes(self.token))

    def allows(self, told: str) -> bool:
        """Whether somebody who told this token may act."""
        return not self.read_only and self.admits(told)

    def answers_to(self, host: str) -> bool:
        """Whether a browser that calls us by this name (the Host header) is served.

        Without a token it has to be a name of this very machine: a foreign page, whose own name was made to lead here,
        would otherwise press the buttons in its visitor's browser (DNS rebinding).
        """
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return bool(self.token) or not host or is_loopback(name.strip("[]").rstrip(".").lower())


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


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
    """``settings``, with a new token where other machines could reach the pages and nobody has set one.

    address: what the server listens at, None or "" for every address. So it is when somebody starts the app by hand.
    """
    if settings.token or is_loopback(address or ""):
        return settings
    return replace(settings, token=new_token())


def new_token() -> str:
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
