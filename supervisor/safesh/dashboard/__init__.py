"""The dashboard: pages in the browser over what status, top, run and history know (extra ``dashboard``: Streamlit)."""
