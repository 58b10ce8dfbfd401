"""The text of a file: its encoding is guessed."""

import codecs
from pathlib import Path

from meanfield.checks import require

# First bytes of files that are no text, and what to do with them.
_WORKBOOK = "looks like a workbook of a spreadsheet. Save it as CSV."
_PACKED = "is compressed. Unpack it."
_NO_TEXT = {
    b"PK\3\4": _WORKBOOK,
    b"\xd0\xcf\x11\xe0": _WORKBOOK,
    b"\x1f\x8b": _PACKED,
    b"BZh91AY": _PACKED,
    b"\xfd7zXZ": _PACKED,
    b"\x28\xb5\x2f\xfd": _PACKED,
}
_WIDE = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decoded(path: Path) -> tuple[str, str]:
    """Text of a file, and the name of its encoding.

    UTF-16 and UTF-32 need a byte-order mark. Other text that is not UTF-8 is read as
    Windows-1252, or as Latin-1 if it has bytes that Windows-1252 does not define.

    Raises:
        ValueError: the file is not text, or is UTF-8 text with a few wrong bytes.
    """
    content = path.read_bytes()
    for start, remedy in _NO_TEXT.items():
        require(not content.startswith(start), f"the table {path} {remedy}")
    # The mark of UTF-32 begins with that of UTF-16.
    for mark, encoding in _WIDE.items():
        if content.startswith(mark):
            try:
                return content.decode(encoding), encoding.upper()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"the table {path} is damaged: it begins like {encoding.upper()} "
                    f"text, but {error.reason}. Save it again, as UTF-8."
                ) from error
    require(
        b"\0" not in content,
        f"the table {path} is not a text file, or is UTF-16 text without a byte-order "
        "mark. Save it as CSV in UTF-8.",
    )
    try:
        return content.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError as error:
        _refuse_mixed(path, content, error.start)
    try:
        return content.decode("cp1252"), "Windows-1252"
    except UnicodeDecodeError:
        return content.decode("latin-1"), "Latin-1"


def _refuse_mixed(path: Path, content: bytes, place: int) -> None:
    """Raise if a text has more non-ASCII letters in UTF-8 than wrong bytes."""
    text = content.decode("utf-8", errors="surrogateescape")
    wrong = sum("\udc80" <= letter <= "\udcff" for letter in text)
    foreign = sum(letter > "\x7f" for letter in text) - wrong
    require(
        foreign <= wrong,
        f"the table {path} is UTF-8 text except for {wrong} bytes, the first of them "
        f"{content[place : place + 1]!r} in line {content[:place].count(10) + 1}. "
        "Correct them, or save the table again in one encoding.",
    )
