"""Sends one message to one apprise URL: ``{"url", "title", "body", "type"}`` on standard input.

Executed as a file, by a courier, in a process of its own: apprise is large, and may hang or fail as it likes here.
What goes wrong is one line on standard output, which never holds the URL: it is a secret.
"""

from __future__ import annotations

import os
import sys

if not __package__:
    sys.path[0] = __file__.rpartition("/safesh/")[0]

from safesh import vendor, wire

_MISSING = 69  # EX_UNAVAILABLE
_BAD_URL = 78  # EX_CONFIG


def send() -> int:
    """The exit status: 0 sent, 1 refused or not reached, 69 no apprise here, 78 not an URL that apprise knows."""
    data = b""
    while chunk := os.read(0, 1 << 16):
        data += chunk
    message = wire.loads(data.decode())
    vendor.add_site_packages()
    try:
        import apprise
    except ImportError as error:
        say(f"apprise cannot be imported ({error}); install it beside safesh: pip install 'safesh[notify]'")
        return _MISSING
    import logging

    logging.disable(logging.CRITICAL)  # its messages quote URLs
    service = message["url"].partition(":")[0]
    sender = apprise.Apprise()
    if not sender.add(message["url"]):
        say(f"apprise does not know this service, or its URL lacks something ({service[:20]}://...)")
        return _BAD_URL
    if not sender.notify(title=message["title"], body=message["body"], notify_type=message["type"]):
        say(f"apprise could not deliver it to {service[:20]}://...; try by hand: apprise -vv -b test URL")
        return 1
    return 0


def say(line: str) -> None:
    os.write(1, (line + "\n").encode())


if __name__ == "__main__":
    try:
        code = send()
    except Exception as error:  # the text of one might quote the URL
        say(f"apprise failed: {type(error).__name__}")
        code = 1
    os._exit(code)
