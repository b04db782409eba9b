"""One HTML page that needs nothing else: no script, nothing fetched, every text escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

# Refuses in the browser what this module never writes.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_CSS = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 70rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .35rem 1.5rem; }
dt { color: #555; } dd { margin: 0; }
figure { margin: 1rem 0; } figcaption, p.note { color: #444; font-size: .9rem; max-width: 60rem; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; }
th:first-child { text-align: left; max-width: 22rem; overflow-wrap: anywhere; }
tbody th { font-weight: normal; } tbody tr:nth-child(even) { background: #f6f6f6; }
.digests td { text-align: left; font-family: monospace; white-space: normal;
              overflow-wrap: anywhere; }
pre { background: #f6f6f6; padding: 1rem; overflow-x: auto; font-size: .85rem; }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


def page(title: str, *sections: str) -> str:
    """The whole page; ``sections`` are HTML made by the functions below."""
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{''.join(sections)}</body>\n</html>\n"
    )


def section(title: str, *body: str) -> str:
    """A part with a heading."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(body)}</section>\n"


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """Names with what they mean, one a line."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in pairs)
    return f"<dl>\n{rows}</dl>\n"


def figure(svg: bytes, alternative: str, caption: str) -> str:
    """An SVG file as an inline image with its caption."""
    data = base64.b64encode(svg).decode()
    return (
        f'<figure><img alt="{escape(alternative)}" src="data:image/svg+xml;base64,{data}">\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, style: str = "") -> str:
    """A table; the first cell of a row names it. ``style``: ``digests`` for long codes."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="wide {escape(style)}"><table>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def note(text: str) -> str:
    """A paragraph in small print."""
    return f'<p class="note">{escape(text)}</p>\n'


def points(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>\n" + "".join(f"<li>{escape(text)}</li>\n" for text in texts) + "</ul>\n"


def folded(title: str, text: str) -> str:
    """Preformatted text behind a title."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>\n"
