"""Dates, signs, encodings and classes that no table should have, with remedies."""

import gzip

import pytest

from meanfield import data


def table(folder, cell, count=60):
    """A table with such cells in p, and two classes in c."""
    path = folder / "odd.csv"
    rows = [f"{i % 7}\t{cell(i)}\t{'uv'[i % 2]}" for i in range(count)]
    path.write_text("\n".join(["a\tp\tc", *rows]), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "cell",
    [
        "{0} Jan 2020",
        "{0}-Feb-20",
        "Mon, {0} March 2020",
        "January {0}, 2020",
        "2020-{0:02}",
        "2020/{0:02}",
        "Sep 20{0:02}",
        "2020-01-{0:02}T10:00:00Z",
        "{0}:30 pm",
    ],
)
def test_dates_in_words_are_dates(tmp_path, cell):
    path = table(tmp_path, lambda i: cell.format(1 + i % 12))
    with pytest.raises(ValueError, match=r"'p' holds dates or times, such as .*1"):
        data.table(path, target="c")
    with pytest.raises(ValueError, match="'p' holds dates or times"):
        data.table(path, target="p")


@pytest.mark.parametrize(
    "cell",
    ["1'{0:03}", "1 {0:03}", "1\u202f{0:03},5 €", "\u2212{0}", "({0})", "-$ {0}"],
)
def test_numbers_with_signs_are_neither_names_nor_classes(tmp_path, cell):
    path = table(tmp_path, lambda i: cell.format(i + 1))
    for target in "c", "p":
        with pytest.raises(
            ValueError, match="'p' holds numbers with a unit or with ot"
        ):
            data.table(path, target=target)


@pytest.mark.parametrize(
    "cell",
    [
        lambda i: f"2020-01-{1 + i % 28:02}",
        lambda i: f"{i + 1}00 kg",
        lambda i: "five" if i == 9 else str(i),
    ],
)
def test_the_remedy_for_a_target_is_another_target(tmp_path, cell):
    path = table(tmp_path, cell)
    with pytest.raises(ValueError, match=r"'p' .*[Ll]eave it out \(--drop 'p'\)"):
        data.table(path, target="c")
    with pytest.raises(ValueError, match=r"'p' .*Choose another target \(--target\)"):
        data.table(path, target="p")


@pytest.mark.parametrize("cell", ["{0} months", "{0}5 %", "may {0}", "1'{0}"])
def test_a_few_texts_with_numbers_are_categories(tmp_path, cell):
    found = data.table(table(tmp_path, lambda i: cell.format(i % 3)), target="c")
    assert found.num_features == 4


def test_one_value_and_two_spellings_are_told(tmp_path):
    path = tmp_path / "odd.csv"
    rows = [f"{i % 7},3,k,{['Yes', 'no', 'yes'][i % 3]}" for i in range(60)]
    path.write_text("\n".join(["a,b,c,y", *rows]))
    found = data.table(path, target="y")
    said = " ".join(found.notes)
    assert "nothing can be learned from 'b', 'c', with the same value" in said
    assert "(--drop b,c)" in said
    assert "'Yes' and 'yes' are two different texts in 'y'" in said
    fewer = data.table(path, target="y", drop="b,c")
    assert "same value" not in " ".join(fewer.notes)


def test_classes_of_one_row_each_are_refused_by_this_reason(tmp_path):
    path = table(tmp_path, lambda i: f"name {chr(97 + i % 26)}{i}")
    with pytest.raises(ValueError, match="got 60 rows of different classes"):
        data.table(path, target="p")


def test_a_table_of_one_column_is_asked_for_its_separator(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("a:p\nu:v\nw:v\n")
    with pytest.raises(ValueError, match=r"among \['a:p'\]; got 'p'. If it has more"):
        data.table(path, target="p")


PLAIN = "größe,y\n" + "".join(f"{i % 7},{'uv'[i % 2]}\n" for i in range(20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(PLAIN.encode(), mtime=0), "is compressed. Unpack it"),
        (PLAIN.encode("utf-16-le"), "UTF-16 text without a byte-order mark"),
        (b"\xff\xfe" + PLAIN.encode()[:9], "damaged: it begins like UTF-16"),
        (
            PLAIN.encode() + "3,é\n".encode("cp1252") + "4,ä\n".encode() * 3,
            r"is UTF-8 text except for 1 bytes, the first of them b'\\xe9' in line 22",
        ),
    ],
    ids=["compressed", "UTF-16 without a mark", "damaged UTF-16", "stray bytes"],
)
def test_text_in_no_encoding_is_refused(tmp_path, content, message):
    path = tmp_path / "odd.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_table(path)


@pytest.mark.parametrize("encoding", ["utf-32", "utf-16", "cp1252", "latin-1"])
def test_text_in_every_encoding_is_read(tmp_path, encoding):
    path = tmp_path / "odd.csv"
    odd = "\x81" if encoding == "latin-1" else ""  # unknown in Windows-1252
    path.write_bytes(PLAIN.replace("u", "u" + odd).encode(encoding))
    found = data.table(path, target="y")
    assert found.feature_names == ("größe",)
    assert found.class_names == ("u" + odd, "v")
    assert found.notes[0].startswith("read as ")
