"""The HTML elements of the report: style, tables, figures, notes on missing parts."""

import base64
import html
from collections.abc import Iterable, Sequence
from typing import Any

# The browser may load only the page's own style and pictures.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
# Pictures have a separate dark version, see `figure`.
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de;
  --soft: #57606a; --band: #f6f8fa; --mark: #9a6700; --link: #0969da; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117;
  --line: #30363d; --soft: #9da7b1; --band: #161b22; --mark: #d29922;
  --link: #58a6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--line);
  padding-bottom: .3rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
a { color: var(--link); } nav ol { padding-left: 1.4rem; }
ul.verdict { font-size: 1.05rem; padding: .8rem 1rem .8rem 2rem;
  background: var(--band); border-left: 4px solid var(--link); }
p.soft, figcaption { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tbody th { font-weight: normal; } thead th { background: var(--band); }
td.number, th.number { text-align: right; white-space: nowrap; }
figure { margin: 1rem 0; max-width: 36rem; } figure img { display: block;
  max-width: 100%; height: auto; border-radius: 6px; }
.plots { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.missing { border-left: 4px solid var(--mark); background: var(--band);
  padding: .6rem 1rem; }
code, pre { font: .9em ui-monospace, monospace; background: var(--band); }
code { overflow-wrap: anywhere; } pre { padding: .7rem; white-space: pre-wrap; }
summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: .8rem; }
  th, td { white-space: normal !important; overflow-wrap: anywhere; }
  figure, tr, .missing { break-inside: avoid; } h2, h3 { break-after: avoid; }
  details > * { display: block !important; }
  details::details-content { content-visibility: visible; height: auto; } }
"""


def document(title: str, lead: str, sections: Sequence[tuple[str, str]]) -> str:
    """The whole page.

    Args:
        title: heading, as plain text.
        lead: the main results, as HTML.
        sections: headings, as plain text, and their HTML.
    """
    links = "".join(
        f'<li><a href="#s{number}">{name}</a></li>'
        for number, (name, _) in enumerate(sections, 1)
    )
    body = "\n".join(
        f'<section aria-labelledby="s{number}"><h2 id="s{number}">{name}</h2>\n'
        f"{content}</section>"
        for number, (name, content) in enumerate(sections, 1)
    )
    # An empty icon keeps the browser from requesting one.
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>meanfield: {html.escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style></head>\n<body><main><h1>{html.escape(title)}</h1>\n"
        f"{lead}\n"
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n{body}\n'
        "</main></body></html>\n"
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()
) -> str:
    """A table that scrolls separately on a narrow screen.

    Args:
        head: names of the columns; none for a list of names and values.
        rows: cells; the first cell of each row is its name.
        numbers: columns of numbers, which are aligned to the right.
    """
    right = set(numbers)

    def cell(column: int, value: Any, heads: str = "") -> str:
        mark = ' class="number"' if column in right else ""
        if heads or column == 0:
            scope = heads or "row"
            return f'<th scope="{scope}"{mark}>{html.escape(str(value))}</th>'
        return f"<td{mark}>{html.escape(str(value))}</td>"

    top = "".join(cell(column, name, "col") for column, name in enumerate(head))
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    body = "".join(
        "<tr>" + "".join(cell(c, value) for c, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="table">'
        f"<table>{top}<tbody>{body}</tbody></table></div>"
    )


def figure(
    picture: bytes, caption: str, alternative: str, dark: bytes | None = None
) -> str:
    """A picture inside the page.

    Args:
        picture: the contents of a .png file.
        caption: the caption below the picture.
        alternative: a description for readers who cannot see the picture.
        dark: the picture for dark pages, if there is one.
    """
    light = base64.b64encode(picture).decode()
    image = (
        f'<img src="data:image/png;base64,{light}" '
        f'alt="{html.escape(alternative, quote=True)}">'
    )
    if dark is not None:
        image = (
            '<picture><source media="(prefers-color-scheme: dark)" '
            f'srcset="data:image/png;base64,{base64.b64encode(dark).decode()}">'
            f"{image}</picture>"
        )
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def missing(what: str, command: str) -> str:
    """A note on a part that the run does not have, and the command that makes it."""
    return (
        f'<p class="missing">This run has no {html.escape(what)} yet. Make it with '
        f"<code>{html.escape(command)}</code>, then write the report again.</p>"
    )


def listing(lines: Sequence[str], kind: str) -> str:
    """A list of short statements.

    Args:
        lines: each as HTML.
        kind: class of the list, for its style.
    """
    body = "".join(f"<li>{line}</li>" for line in lines)
    return f'<ul class="{kind}">{body}</ul>'


def details(summary: str, content: str) -> str:
    """Content that is hidden until the reader opens it."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def short(value: Any) -> str:
    """A float with four significant digits, others in full; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
