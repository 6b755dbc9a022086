"""The app that Streamlit runs: ``safe.sh dashboard``, or ``streamlit run app.py -- --read-only``."""

from __future__ import annotations

import importlib.util
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
# Streamlit puts a script's own folder first, where our files would stand before others' modules of the same names.
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder or ".") != _HERE]
if importlib.util.find_spec("safesh") is None:
    sys.path.append(os.path.dirname(os.path.dirname(_HERE)))

import streamlit as st  # noqa: E402

from safesh.dashboard import data, frame, pages, settings  # noqa: E402

_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16"><rect width="16" height="16" '
    'rx="4" fill="#1b7a43"/><path d="M4 8l3 3 5-6" stroke="#fff" stroke-width="2" fill="none"/></svg>'
)
_STYLE = (
    "<style>.stMainBlockContainer{padding:3rem 2rem 2rem}[data-testid=stMetricValue]{font-size:1.4rem}"
    "h1{font-size:1.9rem!important}h3{font-size:1.25rem!important}</style>"
)


@st.cache_resource(show_spinner=False)
def _source() -> data.Source:
    """One for the server's life: every tab shares its looks."""
    told = settings.read(sys.argv[1:], os.environ)
    return data.Source(settings.check_exposure(told, st.get_option("server.address")))


def main() -> None:
    """Draw the page that is asked for."""
    # A picture of our own: for a page's icon Streamlit would have the browser fetch one from the internet.
    st.set_page_config(page_title="safesh", page_icon=_ICON, layout="wide")
    st.html(_STYLE)
    source = _source()
    stage = frame.sidebar(source.settings, source)
    chosen = st.navigation(
        {
            "": [
                st.Page(lambda: pages.overview(stage), title="Overview", default=True,
                        icon=":material/dashboard:"),
                st.Page(lambda: pages.instance(stage), title="Instance", url_path="instance",
                        icon=":material/account_tree:"),
                st.Page(lambda: pages.plans(stage), title="Plans", url_path="plans", icon=":material/checklist:"),
                st.Page(lambda: pages.history(stage), title="History", url_path="history", icon=":material/history:"),
            ],
            "System": [
                st.Page(lambda: pages.monitor(stage), title="Monitor processes", url_path="monitor",
                        icon=":material/monitor_heart:"),
            ],
        }
    )  # fmt: skip
    chosen.run()


main()
