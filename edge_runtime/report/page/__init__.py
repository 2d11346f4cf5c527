"""The page of a report: jinja2 templates, and figures made with plotly."""
