"""The part of a table that tells when to stop."""

import numpy as np
import pandas as pd
import pytest

from meanfield.data import digits, table
from meanfield.runs.held_out import PATIENCE, hold_out, patience_of
from meanfield.runs.settings import TrainSettings


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    frame = pd.DataFrame({"x": np.sin(np.arange(400.0))})
    frame.assign(y=np.where(np.arange(400) % 4, "a", "b")).to_csv(path, index=False)
    return table(path, target="y")


@pytest.mark.parametrize(
    ("settings", "patience"),
    [
        ({}, None),
        ({"epochs": 500}, None),
        ({"epochs": 500, "rule": "published"}, PATIENCE),
        ({"epochs": 500, "rule": "published", "patience": 0}, None),
        ({"patience": 3}, 3),
    ],
)
def test_a_table_that_is_gone_through_often_is_watched(rows, settings, patience):
    assert patience_of(TrainSettings(**settings), rows) == patience
    if "patience" not in settings:
        assert patience_of(TrainSettings(**settings), digits()) is None


def test_the_part_held_out_is_a_tenth_by_class(rows):
    (x, y), (held_x, held_y) = hold_out(rows, (rows.x_train, rows.y_train), 0)
    assert np.bincount(held_y).tolist() == [24, 8]
    assert np.bincount(y).tolist() == [216, 72]
    together = np.sort(np.concatenate([x, held_x]), 0)
    np.testing.assert_array_equal(together, np.sort(rows.x_train, 0))
