"""The page of a report: jinja2 templates, and figures made with plotly."""

from edge_runtime.report.page.render import render_page

__all__ = ["render_page"]
