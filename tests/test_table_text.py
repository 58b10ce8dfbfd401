"""Tables as people have them: how they are written, what they lack, what is said."""

import json

import numpy as np
import pytest

from meanfield import data
from meanfield.data.text import read_text


def write(folder, text, **kwargs):
    path = folder / "mine.csv"
    path.write_text(text, **{"encoding": "utf-8", **kwargs})
    return path


ROWS = [(7 * i % 31, 1.5 * i + 0.25, "red" if i % 3 else "green") for i in range(30)]
PLAIN = "size,price,colour\n" + "".join(f"{a},{b},{c}\n" for a, b, c in ROWS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN.replace(",", ";"), "UTF-8 text with semicolons"),
        (PLAIN.replace(",", "\t"), "UTF-8 text with tabs"),
        (PLAIN.replace(",", "|"), "UTF-8 text with bars"),
        (PLAIN.replace(",", "  "), "UTF-8 text with spaces"),
        (
            PLAIN.replace(",", ";").replace(".", ","),
            "UTF-8 text with semicolons, decimal commas",
        ),
    ],
)
def test_separator_and_decimals_are_guessed_and_said(tmp_path, text, said):
    plain = data.table(write(tmp_path, PLAIN), target="price")
    found = data.table(write(tmp_path, text), target="price")
    assert found.sha256 == plain.sha256
    assert plain.notes == ()
    assert found.notes == (f"read as {said}",)
    assert found.schema is not None
    text = json.dumps(found.schema.to_dict())
    assert data.TableSchema.from_dict(json.loads(text)) == found.schema


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp1252", "Windows-1252"), ("utf-16", "UTF-16"), ("utf-8-sig", None)],
)
def test_the_encoding_is_guessed_and_said(tmp_path, encoding, name):
    path = write(tmp_path, PLAIN.replace("colour", "Größe"), encoding=encoding)
    found = data.table(path, target="price")
    assert found.feature_names == ("size", "Größe=green", "Größe=red")
    assert found.notes == ((f"read as {name} text with commas",) if name else ())


def test_thousands_with_points_are_read_in_a_table_of_decimal_commas(tmp_path):
    text = "a;b;y\n" + "".join(
        f"1.{i}00,5;0.1{i};{i},5\n" if i else "9;0.10;0,5\n" for i in range(9)
    )
    frame = data.read_table(write(tmp_path, text))
    assert frame["a"].tolist()[:3] == ["9", "1100.5", "1200.5"]
    assert frame["b"].tolist()[:2] == ["0.10", "0.11"]


@pytest.mark.parametrize(
    ("given", "value"), [({"sep": "tab"}, "a,b"), ({"sep": ","}, "a")]
)
def test_a_separator_that_is_given_is_not_guessed(tmp_path, given, value):
    frame = data.read_table(write(tmp_path, "a,b\n1,2\n"), **given)
    assert frame.columns[0] == value


def test_a_first_row_that_looks_like_data_is_questioned(tmp_path):
    rows = "".join(f"{i},{i / 7},{'u' if i % 2 else 'v'}\n" for i in range(30))
    path = write(tmp_path, rows)
    with pytest.raises(ValueError, match=r"looks like data, .*'0', '0.0', 'v'.*--no-"):
        data.table(path, target="y")
    found = data.table(path, target="column_2", header=False)
    assert len(found.y_train) + len(found.y_test) == 30
    assert found.feature_names == ("column_0", "column_1")
    read = data.table(path, target="v", header=True)
    assert len(read.y_train) + len(read.y_test) == 29


HOLES = "size,colour,price,empty\n" + "".join(
    f"{'?' if i % 5 == 0 else i},{'' if i % 4 == 0 else 'red'},"
    f"{'NA' if i == 7 else 1.5 * i + 0.25},\n"
    for i in range(40)
)


def test_missing_values_are_the_median_with_an_indicator_or_a_category(tmp_path):
    found = data.table(write(tmp_path, HOLES), target="price")
    names = ("size", "size=(missing)", "colour=(missing)", "colour=red")
    assert found.feature_names == names
    assert len(found.y_train) + len(found.y_test) == 39
    said = " ".join(found.notes)
    for part in ("1 rows whose target", "'empty': it has no value", "'size', 'colour'"):
        assert part in said
    x = np.concatenate([found.x_train, found.x_test])
    assert found.schema is not None
    column = found.schema.columns[0]
    assert column.fill is not None
    # The median of the training rows whose size is there, in standard units.
    there = found.x_train[found.x_train[:, 1] == 0, 0] * column.std + column.mean
    np.testing.assert_allclose(column.fill, np.median(there), rtol=1e-5)
    filled = x[x[:, 1] == 1, 0] * column.std + column.mean
    np.testing.assert_allclose(filled, column.fill, rtol=1e-5)
    assert x[:, 1].sum() == 8
    assert x[:, 2].sum() == 10
    np.testing.assert_allclose(found.x_train[:, 0].mean(), 0, atol=1e-6)
    schema = data.TableSchema.from_dict(json.loads(json.dumps(found.schema.to_dict())))
    frame = data.read_table(tmp_path / "mine.csv")
    rows = schema.encode(frame.iloc[:8])
    assert rows[:, 1].tolist() == [1, 0, 0, 0, 0, 1, 0, 0]
    assert rows[:, 2].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]


def test_what_nobody_can_learn_from_is_left_out_and_named(tmp_path):
    rows = "".join(f"{i},{i + 1},n{i},{i % 4},{i % 2},\n" for i in range(60))
    path = write(tmp_path, ",PassengerId,name,size,y,\n" + rows)
    found = data.table(path, target="y")
    assert found.feature_names == ("PassengerId", "size")
    said = "\n".join(found.notes)
    assert "which has no heading: it numbers the rows" in said
    assert "left out 'name': 60 different texts in 60 rows" in said
    assert "'PassengerId' counts the rows" in said
    fewer = data.table(path, target="y", drop="PassengerId,name")
    assert fewer.feature_names == ("size",)
    only = data.table(path, target="y", features=["size", "name"])
    assert only.feature_names is not None
    assert len(only.feature_names) == 61


def test_all_that_is_wrong_stands_in_one_message(tmp_path):
    rows = "".join(
        f"2011-01-{i % 28 + 1:02},{'x1' if i == 3 else i},k{i % 300},1:2{i % 10},1\n"
        for i in range(900)
    )
    path = write(tmp_path, "day,size,kind,time,y\n" + rows)
    with pytest.raises(ValueError, match="for 6 reasons") as raised:
        data.table(path, target="y", drop="nosuch")
    for part in (
        "`drop` must name columns",
        "'day' holds dates or times, such as '2011-01-01'. Leave it out (--drop 'day')",
        "'size' is mostly numbers, but holds 'x1' in row 3",
        "'kind' must have at most 256 categories; got 300",
        "'time' holds dates",
        "between 2 and 256 classes; got 1",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04...", "like a workbook"),
        (b"a,b\x00", "is not a text file"),
        (b"a;b\n1;2\n3;4;5\n", "read with semicolons between cells, must have equally"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, message):
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_table(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drop": "size", "features": "size"}, "either `drop` or `features`"),
        ({"features": "weight"}, "`features` must name columns .* got 'weight'"),
        ({"missing": "guess"}, "`missing` must be 'fill' or 'refuse'; got 'guess'"),
        ({"sep": "::"}, "`sep` must be one character, tab or space; got '::'"),
        ({"decimal": "'"}, "`decimal` must be"),
        ({"drop": "size,colour"}, "no column besides its target"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        data.table(write(tmp_path, PLAIN), target="price", **given)


def test_new_rows_that_do_not_fit_are_refused_all_at_once(tmp_path):
    schema = data.table(write(tmp_path, PLAIN), target="price").schema
    assert schema is not None
    frame = data.read_table(tmp_path / "mine.csv")
    holes = frame.assign(size=[None, *frame["size"][1:]], colour="blue")
    with pytest.raises(ValueError, match=r"(?s)2 reasons.*'size' has no .*got 'blue'"):
        schema.encode(holes)


def test_counts_are_offered_a_poisson_likelihood(tmp_path):
    text = "x,y\n" + "".join(f"{7 * i % 61},{i * i % 97}\n" for i in range(60))
    found = data.table(write(tmp_path, text), target="y")
    assert found.task == "regression"
    assert "--likelihood poisson" in found.notes[0]
    assert data.table(tmp_path / "mine.csv", target="y", task="counts").notes == ()


def column(cell):
    """A table with a column p of such cells and two classes."""
    rows = [f"{cell.format(i)},{'xy'[i % 2]}" for i in range(60)]
    return "\n".join(["p,c", *rows]) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# by a tool\na,b,c\n1,2,x\n",
            "line 2 has 3 cells, the lines before it have 1",
        ),
        (column("{0}%"), r"'p' holds numbers with a unit.*'0%'.*--drop 'p'"),
        (column('"$ {0},{0:03d},000.00"'), r"'p' holds numbers with a unit"),
        (column("{0} km/h"), r"'p' holds numbers with a unit"),
        (column('"{0},{0:03d}"'), "if the comma separates thousands, remove it"),
        (column("{0:x}"), r"'p' is mostly numbers.*'a'.*--drop 'p'"),
    ],
)
def test_columns_of_odd_numbers_are_refused_with_the_way_out(tmp_path, text, message):
    path = tmp_path / "odd.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        data.table(path, target="c")


def test_a_column_without_a_heading_is_left_out_by_its_place(tmp_path):
    path = tmp_path / "odd.csv"
    rows = "\n".join(f"{i % 7},{i * i % 11},{'xy'[i % 2]}" for i in range(40))
    path.write_text("a,,c\n" + rows + "\n")
    with pytest.raises(ValueError, match=r"column 1 .* has none.*--drop column_1\)"):
        data.table(path, target="c")
    found = data.table(path, target="c", drop="column_1")
    assert found.feature_names == ("a",)
    # New rows may have it: it is not used.
    assert list(data.read_table(path)) == ["a", "column_1", "c"]


@pytest.mark.parametrize("separator", [",", ";", "\t", " "])
def test_rows_that_are_too_short_are_told(tmp_path, separator):
    path = tmp_path / "short.csv"
    lines = ["a b c", "1 2 3", "4 5", "", "6 7 8", "9"]
    path.write_text("\n".join(lines).replace(" ", separator) + "\n")
    found = read_text(path, sep=separator)
    assert found.frame.isna().sum().tolist() == [0, 1, 2]
    said = " ".join(found.notes)
    assert "2 rows have fewer than 3 cells, the first in line 3" in said
    path.write_text("a,b,c\n1,2,3\n4,5,\n")  # An empty cell is none too few.
    assert "fewer" not in " ".join(read_text(path).notes)
