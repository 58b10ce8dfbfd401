"""Docstrings as Markdown that MyST reads.

Our docstrings are Markdown with the sections of Google's style. A section becomes
fields that Sphinx knows (`:param x:`, `:returns:`), a doctest a block of code,
and a public name in backticks a link.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping

FIELDS = {
    "Args": "param",
    "Attributes": "param",
    "Returns": "returns",
    "Yields": "yields",
    "Raises": "raises",
}
LISTS = ("Args", "Attributes", "Raises")


def sections(text: str) -> Iterator[tuple[str, str]]:
    """The parts of a docstring: ("", what comes first), then (heading, its text)."""
    parts = re.split(r"^(\w+):\n(?=    )", text, flags=re.M)
    yield "", parts[0]
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        inside, outside = _split_indented(body)
        yield heading, textwrap.dedent(inside)
        if outside.strip():
            yield "", outside


def _split_indented(body: str) -> tuple[str, str]:
    """The indented lines at the start of a text, and the rest."""
    end = re.search(r"^\S", body, re.M)
    return (body[: end.start()], body[end.start() :]) if end else (body, "")


def items(body: str) -> Iterator[tuple[str, str]]:
    """The entries `name: text` of a section; text without a name continues the last."""
    for entry in re.split(r"\n(?=\S)", body.strip("\n")):
        name, _, text = entry.partition(":")
        first, _, rest = text.strip().partition("\n")
        yield name.strip(), "\n".join([first, textwrap.dedent(rest)]).strip()


def markdown(text: str, links: Mapping[str, str]) -> str:
    """A docstring as MyST Markdown.

    Args:
        text: the docstring, its common indentation removed.
        links: the full name of everything that a name in backticks links to.
    """
    before, fields, after = [], [], []
    for heading, body in sections(text):
        if heading in LISTS:
            fields += [_field(FIELDS[heading], *item) for item in items(body)]
        elif heading in FIELDS:
            fields.append(_field(FIELDS[heading], "", body.strip()))
        elif heading:
            after.append(f"**{heading}**\n\n{body}")
        else:
            (after if fields else before).append(body)
    parts = [*before, "\n".join(fields), *after]
    return _linked(_fenced("\n\n".join(parts)), links)


def _field(kind: str, name: str, text: str) -> str:
    label = f"{kind} {name}".strip().replace("*", r"\*")
    return f":{label}: " + textwrap.indent(text, "    ").strip()


def _fenced(text: str) -> str:
    """The text with its doctests as code blocks."""
    doctest = r"((?:^[ ]*>>> .*\n?(?:^(?![ ]*>>>)[ ]*\S.*\n?)*\n*)+)"

    def fence(match: re.Match) -> str:
        return f"```pycon\n{textwrap.dedent(match[1]).strip()}\n```\n\n"

    return re.sub(doctest, fence, text, flags=re.M)


def _linked(text: str, links: Mapping[str, str]) -> str:
    """The text with links where a public name stands in backticks, but not in code."""

    def link(match: re.Match) -> str:
        name = match[1].removeprefix("mf.").removeprefix("meanfield.")
        target = links.get(name)
        return f"{{py:obj}}`{match[1]} <{target}>`" if target else match[0]

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    parts[::2] = [re.sub(r"(?<!`)`([\w.]+)`(?!`)", link, part) for part in parts[::2]]
    return "".join(parts)
