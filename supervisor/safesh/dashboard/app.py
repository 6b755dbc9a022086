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

_MARK = (
    '<rect width="16" height="16" rx="4" fill="#1b7a43"/>'
    '<path d="M4 8l3 3 5-6" stroke="#fff" stroke-width="2" fill="none"/>'
)
_ICON = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16" height="16">{_MARK}</svg>'
# Its green reads on a light and on a dark page.
_LOGO = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 16" width="144" height="32">{_MARK}'
    '<text x="21" y="12.3" font-family="system-ui,sans-serif" font-size="12.5" font-weight="700" fill="#28995a">safesh'
    "</text></svg>"
)
_STYLE = """<style>
.stMainBlockContainer{padding:2.2rem 1.8rem 2rem}
section[data-testid=stSidebar]:is([data-collapsed=false],[aria-expanded=true]){width:15rem!important;min-width:15rem!important}
[data-testid=stSidebar] :is([data-testid=stButtonGroup] button,[data-testid^=stBaseButton-segmented]){
padding-left:.5rem!important;padding-right:.5rem!important}
h1{font-size:1.9rem!important;padding-top:.4rem!important}
h3{font-size:1.25rem!important}
[data-testid=stMetricValue]{font-size:1.35rem}
[data-testid=stMetricValue] *{white-space:normal}
[data-testid=stCaptionContainer],[data-testid=stCaptionContainer] *{color:inherit!important}
[data-testid=stCaptionContainer]{opacity:.8}
[data-testid=stBaseButton-primary]{background:#1d63a3;border-color:#4b9be0}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:.9rem 1.2rem}
.facts div{display:flex;flex-direction:column}
.facts small,.facts span{font-size:.875rem}
.facts b{font-size:1.2rem;font-weight:400}
.facts span{opacity:.8}
@media(max-width:640px){.stMainBlockContainer{padding:3.2rem 1rem 1rem}}
</style>"""


@st.cache_resource(show_spinner=False)
def _source() -> data.Source:
    """One for the server's life: every tab shares its looks."""
    told = settings.read(sys.argv[1:], os.environ)
    safe = settings.check_exposure(told, st.get_option("server.address"))
    if safe.token != told.token:
        sys.stderr.write(f"dashboard: it can be reached from other machines; token: {safe.token}\n")
        sys.stderr.flush()
    return data.Source(safe)


def main() -> None:
    """Draw the page that is asked for."""
    # A picture of our own: for a page's icon Streamlit would have the browser fetch one from the internet.
    st.set_page_config(page_title="safesh", page_icon=_ICON, layout="wide")
    source = _source()
    stage = frame.Stage(source.settings, source)
    instance = st.Page(
        lambda: pages.instance(stage), title="Instance", url_path="instance", icon=":material/account_tree:"
    )
    stage.instance_page = instance
    there = {
        "": [
            st.Page(lambda: pages.overview(stage), title="Overview", default=True, icon=":material/dashboard:"),
            instance,
            st.Page(lambda: pages.plans(stage), title="Plans", url_path="plans", icon=":material/checklist:"),
            st.Page(lambda: pages.history(stage), title="History", url_path="history", icon=":material/history:"),
        ],
        "System": [
            st.Page(lambda: pages.monitor(stage), title="Monitor processes", url_path="monitor",
                    icon=":material/monitor_heart:"),
        ],
    }  # fmt: skip
    st.html(_STYLE)
    st.logo(_LOGO, size="large")
    admitted = frame.is_admitted(source.settings)
    chosen = st.navigation(there, position="sidebar" if admitted else "hidden")
    if admitted:
        st.set_page_config(page_title=f"{chosen.title} · safesh")
        frame.sidebar(stage)
        chosen.run()
    else:
        frame.gate(source.settings)


main()
