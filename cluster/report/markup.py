"""Pieces of HTML that pages are put together from."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from cluster.report.charts import short


def section(title: str, body: str) -> str:
    """A titled section, nothing for an empty body."""
    return f"<section><h2>{html.escape(title)}</h2>{body}</section>" if body else ""


def note(text: str) -> str:
    """A muted paragraph."""
    return f'<p class="muted">{html.escape(text)}</p>'


def figure(title: str, legend: str, chart: str) -> str:
    """A chart with its title; the legend is HTML already."""
    return f'<figure class="chart"><figcaption>{html.escape(title)}<span>{legend}</span></figcaption>{chart}</figure>'


def charts(figures: Sequence[str]) -> str:
    """Figures side by side, nothing for none."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def legend(names: Sequence[str]) -> str:
    """Names in the colours of the series of a chart, in order."""
    return "".join(f'<i style="color:var(--c{index})">{html.escape(name)}</i>' for index, name in enumerate(names))


def picture(content: bytes, kind: str, title: str, wide: bool = False) -> str:
    """A picture that is part of the page; `kind` is gif or png."""
    data = base64.b64encode(content).decode()
    name, opening = html.escape(title), '<figure class="wide">' if wide else "<figure>"
    return f'{opening}<img src="data:image/{kind};base64,{data}" alt="{name}"><figcaption>{name}</figcaption></figure>'


def pictures(figures: Sequence[str]) -> str:
    """Pictures side by side, nothing for none."""
    return f'<div class="gifs">{"".join(figures)}</div>' if figures else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML already; nothing when there are no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def cell(value: object) -> str:
    """A value as the HTML of a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        value = short(value)
    elif isinstance(value, list):
        return html.escape(" to ".join(short(v) if isinstance(v, float) else str(v) for v in value))
    return html.escape(str(value))


def key_values(values: Mapping[str, Any]) -> str:
    """A table of names and values."""
    rows = "".join(
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(_plain(value))}</td></tr>"
        for key, value in values.items()
    )
    return f'<table class="pairs"><tbody>{rows}</tbody></table>'


def page(title: str, body: str) -> str:
    """A whole page that loads nothing."""
    style = (resources.files("cluster") / "report" / "report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)} · worldfleet</title>\n<style>\n{style}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
