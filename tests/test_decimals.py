"""Decimal commas, thousands, places: read alike in training and in new rows."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from meanfield import data
from meanfield.data.text import read_text
from meanfield.runs.predictions import read_rows

RNG = np.random.default_rng(0)
SIZES = RNG.integers(1, 10**7, 40) // 10 ** RNG.integers(0, 6, 40) + 7
PRICES = np.round(RNG.uniform(0, 1e5, 40) + 1, 2)
CHOICE = ["u", "v"] * 20


def schema_of(path, **given):
    """The schema learned from a table whose target is y."""
    schema = data.table(path, target="y", **given).schema
    assert schema is not None
    return schema


def config_of(schema):
    """The part of a configuration by which new rows are read."""
    return {"data": {"schema": schema.to_dict()}}


def written(value, point, thousands):
    """A number as it is written in a country."""
    text = f"{value:,}"
    return text.replace(",", "t").replace(".", point).replace("t", thousands)


def table(folder, point, thousands, separator, columns=("size", "price", "y"), rows=40):
    values = {"size": SIZES.tolist(), "price": PRICES.tolist(), "y": CHOICE}
    frame = pd.DataFrame(
        {
            name: [
                v if isinstance(v, str) else written(v, point, thousands)
                for v in values[name][:rows]
            ]
            for name in columns
        }
    )
    path = folder / "numbers.csv"
    frame.to_csv(path, sep=separator, index=False)
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(("point", "thousands"), [(",", "."), (".", ","), (".", "")])
def test_numbers_of_every_country_are_read_back(tmp_path, separator, point, thousands):
    path = table(tmp_path, point, thousands, separator)
    given: Any = {"decimal": ","} if (point, separator) == (",", ",") else {}
    frame = data.read_table(path, **given)
    assert [*map(int, frame["size"])] == SIZES.tolist()
    assert [*map(float, frame["price"])] == PRICES.tolist()
    found = data.table(path, target="y", **given)
    said = " ".join(found.notes)
    assert ("between thousands" in said) == bool(thousands)
    # New rows, some of which leave open what the sign means.
    config = config_of(schema_of(path, **given))
    for rows in (1, 3, 40):
        new = table(tmp_path, point, thousands, separator, ("price", "size"), rows)
        read = read_rows(config, new)
        assert [*map(int, read["size"])] == SIZES[:rows].tolist()
        assert [*map(float, read["price"])] == PRICES[:rows].tolist()


def test_a_comma_that_may_mean_both_is_asked_for(tmp_path):
    path = tmp_path / "unclear.csv"
    rows = [f"{i};{'uv'[i % 2]}" for i in range(100, 139)]
    path.write_text("\n".join(["size;y", "1,234;u", *rows]))
    with pytest.raises(ValueError, match=r"decimal comma, such as .*--decimal \.\)"):
        data.table(path, target="y")
    assert data.read_table(path, decimal=",")["size"].tolist()[0] == "1.234"
    read = data.read_table(path, decimal=".")["size"]
    assert read.tolist() == ["1234", *map(str, range(100, 139))]
    schema = schema_of(path, decimal=".")
    path.write_text("size\n1,234\n")
    rows = read_rows(config_of(schema), path)
    assert rows["size"].tolist() == ["1234"]


def test_points_are_thousands_in_a_table_of_decimal_commas(tmp_path):
    rows = [f"{i % 5},5;{1 + i % 9}.{37 * i % 1000:03}" for i in range(1, 40)]
    path = tmp_path / "thousands.csv"
    path.write_text("\n".join(["a;y", "1,5;999", *rows]))
    found = data.table(path, target="y")
    said = "points separate thousands, as the table has decimal commas, in 'y'"
    assert said in found.notes
    y = np.concatenate([found.y_train, found.y_test])
    assert y.min() == 999
    assert y.max() == max(1000 * (1 + i % 9) + 37 * i % 1000 for i in range(1, 40))


def test_decimal_points_in_a_table_of_commas_stay_points_in_new_rows(tmp_path):
    rows = [f"0.1{i};{i},5;{'uv'[i % 2]}" for i in range(20)]
    path = tmp_path / "mixed.csv"
    path.write_text("\n".join(["a;b;y", *rows]))
    schema = schema_of(path)
    assert schema.format.pointed == ("a",)
    assert data.TableSchema.from_dict(schema.to_dict()) == schema
    path.write_text("a;b\n1.234;1.234\n")
    read = read_rows(config_of(schema), path)
    assert read.iloc[0].tolist() == ["1.234", "1234"]


@pytest.mark.parametrize("target", ["column_0", "column_2", "column_0,column_3"])
def test_rows_without_headings_may_lack_the_targets(tmp_path, target):
    rows = [f"{i % 2};1{i % 7},5;2{i % 5}.125;{i % 3}" for i in range(40)]
    path = tmp_path / "bare.csv"
    path.write_text("\n".join(rows))
    found = data.table(path, target=target, header=False, task="regression")
    assert found.schema is not None
    config = config_of(found.schema)
    whole = read_rows(config, path)
    dropped = [int(name[-1]) for name in target.split(",")]
    kept = [place for place in range(4) if place not in dropped]
    new = [";".join(row.split(";")[place] for place in kept) for row in rows]
    path.write_text("\n".join(new))
    fewer = read_rows(config, path)
    assert found.schema.encode(fewer).tolist() == found.schema.encode(whole).tolist()
    path.write_text("1\n2\n")
    with pytest.raises(ValueError, match="must have 4 columns.*It has 1"):
        read_rows(config, path)


def test_texts_in_new_rows_stay_and_the_wrong_cell_is_named(tmp_path):
    rows = [f"{['1,5', 'big'][i % 2]};{i},5;{'uv'[i % 2]}" for i in range(20)]
    path = tmp_path / "sizes.csv"
    path.write_text("\n".join(["a;b;y", *rows]))
    schema = schema_of(path)
    path.write_text("a;b\n1,5;2,5\n1,5;x\n")
    read = read_rows(config_of(schema), path)
    assert read["a"].tolist() == ["1,5", "1,5"]
    with pytest.raises(ValueError, match="'b' must be numbers; got 'x' in row 1"):
        schema.encode(read)


def test_repeated_headings_matter_only_where_they_are_used(tmp_path):
    rows = [f"{i};{i % 5};{i % 3};{'uv'[i % 2]}" for i in range(20)]
    path = tmp_path / "twice.csv"
    path.write_text("\n".join(["a;b;b;y", *rows]))
    with pytest.raises(ValueError, match=r"'b' is the heading of two .*--drop 'b'"):
        data.table(path, target="y")
    schema = schema_of(path, drop="b")
    assert schema.feature_names == ("a",)
    assert len(read_rows(config_of(schema), path)) == 20
    path.write_text("a;a\n1;2\n")
    with pytest.raises(ValueError, match="'a' is the heading of two"):
        read_rows(config_of(schema), path)


def test_headings_like_generated_ones_stay_apart(tmp_path):
    path = tmp_path / "named.csv"
    path.write_text("b,b (2),b,,column_3\n1,2,3,4,5\n6,7,8,9,0\n")
    text = read_text(path)
    assert [*text.frame] == ["b", "b (2)", "b (3)", "column_3 (2)", "column_3"]
    assert text.repeated == {"b (3)": "b"}
    assert text.unnamed == {"column_3 (2)": 3}
