"""One HTML file with charts, that needs no network: plotly's JavaScript is in it."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from vpetl_ray.results.atomic import replacing
from vpetl_ray.results.page_parts import Chart

REFRESH_SECONDS = 10
"""How often a page looks again, while its search runs."""
_STYLE = """
body { font-family: system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 1100px;
  padding: 24px; line-height: 1.45; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.2rem; margin: 2rem 0 0.2rem; }
p { margin: 0.2rem 0 0.6rem; color: #444; } code { background: #f2f2f2; padding: 1px 4px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid #ddd; text-align: left; }
td.number, th.number { text-align: right; } tr.knee { font-weight: 600; }
"""
_DRAW = """
for (const [id, figure] of Object.entries(CHARTS)) {
  Plotly.newPlot(id, figure.data, figure.layout, {responsive: true, displaylogo: false});
}
"""


def write_page(
    path: Path,
    *,
    title: str,
    intro: Sequence[str],
    charts: Sequence[Chart],
    table: str = "",
    is_running: bool = False,
) -> None:
    """Write the page, atomically.

    Args:
        path: `.html`; its folder exists.
        title: of the page.
        intro: sentences below it, as text.
        charts: from top to bottom.
        table: HTML, after the first chart.
        is_running: whether the browser is to look again every few seconds.

    Raises:
        SearchError: the file cannot be written.
    """
    drawn = {f"chart{i}": chart for i, chart in enumerate(charts) if chart.layout is not None}
    sections = [_section(f"chart{i}", chart) for i, chart in enumerate(charts)]
    sections.insert(1, table)
    figures = {key: {"data": c.data, "layout": c.layout} for key, c in drawn.items()}
    # A closing tag within a string would end the script.
    script = json.dumps(figures, allow_nan=False, ensure_ascii=False).replace("</", "<\\/")
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if is_running else ""
    told = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in intro)
    head = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{refresh}'
        '<meta name="viewport" content="width=device-width">'
        # Without an icon of its own the browser would ask for one.
        '<link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><script>"
    )
    body = (
        f"</script></head><body><h1>{html.escape(title)}</h1>{told}{''.join(sections)}"
        f"<script>const CHARTS = {script};{_DRAW}</script></body></html>"
    )
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(head.encode())
        file.write(_plotly())
        file.write(body.encode())


@cache
def _plotly() -> bytes:
    """Read plotly's JavaScript, which its Python package carries: 5 MB, not copied for a page."""
    return (files("plotly") / "package_data" / "plotly.min.js").read_bytes()


def _section(key: str, chart: Chart) -> str:
    note = html.escape(chart.note)
    figure = f'<div id="{key}"></div>' if chart.layout is not None else ""
    return f"<h2>{html.escape(chart.title)}</h2><p>{note}</p>{figure}"
