"""Starts Streamlit on the app in this very process: one pid, which Ctrl-C and SIGTERM end whole."""

from __future__ import annotations

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))


def main() -> None:
    """``server.py HOST PORT WORDS…``: serve until a signal ends it. WORDS go to the app."""
    host, port, *words = sys.argv[1:]
    from streamlit import config, net_util
    from streamlit.web import cli

    # It would ask a host in the internet which address we have, only to compare a foreign page's origin with it.
    net_util.get_external_ip = lambda: None
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "server.enableCORS": "true",
        "server.enableXsrfProtection": "true",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "global.developmentMode": "false",
        # Both, because one for all would make every page light.
        "theme.light.primaryColor": "#1a5a94",
        "theme.dark.primaryColor": "#4b9be0",
        "logger.hideWelcomeMessage": "true",
    }
    known = config.get_config_options()  # an older one has no word for a welcome; what protects has been there for long
    flags = [f"--{name}={value}" for name, value in options.items() if name in known]
    sys.argv = ["streamlit", "run", os.path.join(_HERE, "app.py"), *flags, "--", *words]
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
