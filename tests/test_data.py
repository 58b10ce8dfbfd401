"""Loaders: what they return, and what they say about data that cannot be used."""

import dataclasses
import gzip
import hashlib
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import pytest

import meanfield.data as data
from meanfield.data import images


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return header + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_images(folder: Path, *, gz: bool, counts: tuple[int, int] = (12, 5)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for prefix, count in zip(("train", "t10k"), counts, strict=True):
        pixels = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            content = idx_bytes(array)
            name = f"{prefix}-{kind}-ubyte" + (".gz" if gz else "")
            (folder / name).write_bytes(gzip.compress(content) if gz else content)


def write_csv(folder: Path, text: str, **kwargs) -> Path:
    path = folder / "mine.csv"
    path.write_text(text, **{"encoding": "utf-8", **kwargs})
    return path


MIXED = "size,colour,price\n" + "".join(
    f"{i},{'red' if i % 3 else 'green'},{1.5 * i + 0.25}\n" for i in range(20)
)


# Named data sets


def test_digits_are_scaled_split_by_class_and_always_the_same():
    first, second = data.load("digits"), data.digits()
    assert first.x_train.shape == (1438, 64)
    assert first.x_test.shape == (359, 64)
    assert first.x_train.dtype == np.float32
    assert first.y_train.dtype == np.int32
    assert first.x_train.min() == 0
    assert first.x_train.max() == 1
    shares = np.bincount(first.y_test) / np.bincount(first.y_train)
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
    assert first.sha256 == second.sha256
    assert len(first.sha256) == 64
    assert first.num_classes == 10
    assert first.image_shape == (8, 8)


def test_the_hash_changes_when_one_pixel_does():
    digits = data.digits()
    pixels = digits.x_test.copy()
    pixels[0, 0] += 1
    assert dataclasses.replace(digits, x_test=pixels).sha256 != digits.sha256


def test_a_data_set_cannot_be_written_to():
    digits = data.digits()
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0, 0] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(digits, "name", "other")  # noqa: B010


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("inside", ["mnist", "."])
def test_idx_files_are_found_packed_or_not_in_either_folder(tmp_path, gz, inside):
    write_images(tmp_path / inside, gz=gz)
    found = data.load("mnist", data_dir=tmp_path)
    assert found.x_train.shape == (12, 784)
    assert found.x_test.shape == (5, 784)
    assert found.image_shape == (28, 28)
    assert found.x_train.max() <= 1
    assert found.y_train.tolist() == [i % 10 for i in range(12)]
    assert "not the published ones" in found.provenance


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_images(tmp_path / "fashion_mnist", gz=True)
    monkeypatch.setenv("MEANFIELD_DATA", str(tmp_path))
    found = data.load("fashion_mnist")
    assert found.class_names is not None
    assert found.class_names[9] == "ankle boot"


def test_a_missing_file_is_named_with_the_folder_it_belongs_in(tmp_path):
    write_images(tmp_path / "mnist", gz=True)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte of `mnist`"):
        data.load("mnist", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="Put the files train-images-idx3"):
        data.load("mnist", data_dir=tmp_path / "nowhere")


def test_a_label_file_of_another_length_is_refused(tmp_path):
    write_images(tmp_path, gz=False)
    labels = np.zeros(11, np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(ValueError, match="one label for each of the 12"):
        data.load("mnist", data_dir=tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(
        idx_bytes(np.full(12, 10, np.uint8))
    )
    with pytest.raises(ValueError, match="labels from 0 to 9; got 10 in row 0"):
        data.load("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "mean"), [("mnist", 0.13066), ("fashion_mnist", 0.28604)]
)
def test_the_published_files_are_recognised(data_dir, name, mean):
    found = data.load(name, data_dir=data_dir)
    assert found.x_train.shape == (60000, 784)
    assert found.x_test.shape == (10000, 784)
    assert "identical to the published" in found.provenance
    assert abs(float(found.x_train.mean(dtype=np.float64)) - mean) < 1e-5
    assert np.bincount(found.y_test).min() >= 892


# Downloads (the net is replaced by a copy from a folder)


def serve(monkeypatch, cache: Path, source: Path | None, damage: bool = False) -> list:
    asked = []

    def retrieve(url, *, fname, path, **_):
        asked.append(url)
        if source is None:
            raise ConnectionError("no route to host")
        path.mkdir(parents=True, exist_ok=True)
        if not (path / fname).exists():
            shutil.copy(source / fname, path / fname)
        if damage:
            (path / fname).write_bytes((path / fname).read_bytes()[:-20])
        return str(path / fname)

    monkeypatch.delenv("MEANFIELD_DATA", raising=False)
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    monkeypatch.setattr(pooch, "os_cache", lambda _: cache)
    return asked


def test_offline_the_error_says_which_files_to_put_where(tmp_path, monkeypatch):
    serve(monkeypatch, tmp_path, None)
    with pytest.raises(
        FileNotFoundError, match=r"(?s)no route.*Put the files train-.*data_dir="
    ):
        data.load("mnist")


@pytest.mark.parametrize("damage", [False, True])
def test_a_wrong_download_is_refused_and_removed(tmp_path, monkeypatch, damage):
    write_images(tmp_path / "source", gz=True)
    serve(monkeypatch, tmp_path / "cache", tmp_path / "source", damage)
    message = "truncated gzip" if damage else "SHA-256"
    with pytest.raises(ValueError, match=message):
        data.load("mnist")
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_a_right_download_is_loaded(tmp_path, monkeypatch):
    write_images(tmp_path / "source", gz=True)
    hashes = {
        part: hashlib.sha256(
            gzip.decompress((tmp_path / "source" / f"{file}.gz").read_bytes())
        ).hexdigest()
        for part, file in images._FILES.items()
    }
    monkeypatch.setitem(images._SHA256, "mnist", hashes)
    asked = serve(monkeypatch, tmp_path / "cache", tmp_path / "source")
    found = data.load("mnist")
    assert len(asked) == 4
    assert found.x_train.shape == (12, 784)
    assert "identical to the published" in found.provenance


# The idx format


def test_idx_reads_big_endian_types_of_any_rank(tmp_path):
    array = (np.arange(6).reshape(1, 2, 3) * 70000).astype(">i4")
    header = struct.pack(">BBBB3I", 0, 0, 0x0C, 3, 1, 2, 3)
    (tmp_path / "a").write_bytes(header + array.tobytes())
    read = data.read_idx(tmp_path / "a")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.dtype("i4")
    assert read.dtype.isnative


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"\x89PNG\r\n", "got 89 50 4e 47"),
        (b"\0\0\x08\x01\0\0", "must have a header of 8 bytes; got 6"),
        (idx_bytes(np.zeros((3, 2), np.uint8))[:-1], "6 bytes of values.*got 5"),
        (idx_bytes(np.zeros((3, 2), np.uint8)) + b"x", "6 bytes of values.*got 7"),
        (
            gzip.compress(idx_bytes(np.zeros(900, np.uint8)), mtime=0)[:-9],
            "truncated gzip",
        ),
        (b"\x1f\x8bnonsense", "truncated gzip"),
    ],
)
def test_a_file_that_is_not_whole_idx_is_refused(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.read_idx(tmp_path / "file")


# Tables


def test_numbers_are_standardised_by_the_training_rows_and_texts_one_hot(tmp_path):
    found = data.load(write_csv(tmp_path, MIXED), target="price")
    assert found.task == "regression"
    assert found.class_names is None
    assert found.feature_names == ("size", "colour=green", "colour=red")
    assert found.x_train.shape == (16, 3)
    assert found.x_test.shape == (4, 3)
    np.testing.assert_allclose(found.x_train[:, 0].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(found.x_train[:, 0].std(), 1, atol=1e-6)
    np.testing.assert_array_equal(found.x_train[:, 1:].sum(1), 1)
    # Price is linear in size: the rows of x and y still belong together.
    size = found.x_train[:, 0]
    slope, offset = np.polyfit(size, found.y_train, 1)
    np.testing.assert_allclose(slope * size + offset, found.y_train, atol=1e-4)


def test_the_schema_goes_through_json_and_encodes_another_table(tmp_path):
    path = write_csv(tmp_path, MIXED)
    found = data.table(path, target="price")
    assert found.schema is not None
    text = json.dumps(found.schema.to_dict())
    schema = data.TableSchema.from_dict(json.loads(text))
    assert schema == found.schema
    frame = data.read_table(path)
    x, y = schema.encode(frame), schema.encode_target(frame)
    both = np.concatenate([found.x_train, found.x_test])
    np.testing.assert_array_equal(np.unique(x, axis=0), np.unique(both, axis=0))
    assert y.dtype == np.float32
    assert y[3] == 4.75
    # Column order and other columns do not matter.
    shuffled = frame[["price", "colour", "size"]].assign(other="?")
    np.testing.assert_array_equal(schema.encode(shuffled), x)


def test_a_category_training_never_saw_is_named(tmp_path):
    schema = data.table(write_csv(tmp_path, MIXED), target="price").schema
    assert schema is not None
    frame = pd.DataFrame({"size": ["1", "2"], "colour": ["red", "blue"]})
    with pytest.raises(ValueError, match="'colour'.*'green', 'red'.*'blue' in row 1"):
        schema.encode(frame)
    with pytest.raises(ValueError, match="must have a column 'size'; got .'colour'."):
        schema.encode(frame[["colour"]])
    with pytest.raises(ValueError, match="'size' must be numbers; got 'big' in row 0"):
        schema.encode(frame.assign(size=["big", "2"]))


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["yes", "no"], "classification", ("no", "yes")),
        (["True", "False"], "classification", ("False", "True")),
        (["2", "0", "10"], "classification", ("0", "2", "10")),
        (["1.0", "2.0"], "classification", ("1", "2")),
        ([str(i) for i in range(30)], "regression", None),
        (["0.5", "1.5"], "regression", None),
    ],
)
def test_the_target_tells_the_task(tmp_path, values, task, classes):
    rows = "".join(f"{i},{values[i % len(values)]}\n" for i in range(60))
    found = data.table(write_csv(tmp_path, "x,y\n" + rows), target="y")
    assert (found.task, found.class_names) == (task, classes)
    assert found.schema is not None
    assert found.schema.class_names == classes


def test_the_task_can_be_forced(tmp_path):
    path = write_csv(tmp_path, "x,y\n" + "".join(f"{i},{i % 5}\n" for i in range(50)))
    assert data.load(path, target="y").task == "classification"
    forced = data.load(path, target="y", task="regression")
    assert forced.task == "regression"
    assert forced.y_train.dtype == np.float32


def test_labels_line_up_with_class_names(tmp_path):
    rows = "".join(f"{i},{'low' if i < 30 else 'high'}\n" for i in range(60))
    found = data.table(write_csv(tmp_path, "x,y\n" + rows), target="y")
    assert found.class_names == ("high", "low")
    low, high = (found.x_train[found.y_train == label, 0] for label in (1, 0))
    assert low.max() < high.min()


def test_quotes_byte_order_mark_and_windows_lines_are_understood(tmp_path):
    text = '"a, b",kind,y\r\n' + '1.5,"x, ""y""\r\nz",u\r\n' * 5 + "2,w,v\r\n" * 5
    path = write_csv(tmp_path, text, encoding="utf-8-sig", newline="")
    found = data.table(path, target="y")
    assert found.feature_names is not None
    assert found.feature_names[0] == "a, b"
    assert found.class_names == ("u", "v")
    assert found.schema is not None
    assert found.schema.columns[1].categories[1].startswith('x, "y"')


def test_a_constant_column_gives_zeros(tmp_path):
    text = "c,x,y\n" + "".join(f"0.1,{i},{i / 7}\n" for i in range(40))
    found = data.table(write_csv(tmp_path, text), target="y")
    assert not found.x_train[:, 0].any()
    assert not found.x_test[:, 0].any()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,y\n", "headings but no rows"),
        ("a,y\n1,2\n3,4,5\n", "equally long rows"),
        ("a,y\n1,2,3\n3,4,5\n", "equally long rows"),
        ("a,a,y\n1,2,3\n", "must differ; 'a'"),
        ("a,,y\n1,2,3\n", "column 1 .* has none"),
        ("y\n1\n2\n", "no column besides its target"),
        ("a,y\n1,2\ninf,4\n3,4\n", "'a' must be finite numbers .*; got 'inf' in row 1"),
        (
            "a,y\n1,2\n1e300,4.5\n3,4\n9,9\n",
            "'a' must be finite numbers that float32 can hold; got '1e300' in row 1",
        ),
        ("a,y\n1,2\nx1,4.5\n3,4\n", "'a' is mostly numbers, but holds 'x1' in row 1"),
        ("a,y\n1,1\n2,2\n3,maybe\n", "'y' is mostly numbers, but holds 'maybe'"),
        ("a,y\n1,u\n2,u\n3,u\n", "between 2 and 256 classes; got 1"),
        ("a,y\n1,u\n2,v\n", "leaves no example to test"),
        ("a,z\n1,u\n2,v\n", r"among \['a', 'z'\]; got 'y'"),
        (
            "a,y\n" + "".join(f"name{i % 300},{i / 7}\n" for i in range(900)),
            "'a' must have at most 256 categories; got 300",
        ),
    ],
)
def test_a_table_that_cannot_be_used_says_where_it_fails(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        data.table(write_csv(tmp_path, text), target="y")


@pytest.mark.parametrize("cell", ["3\n", ",4\n", "NA,4\n", "?,4\n", "  ,4\n"])
def test_missing_values_are_refused_by_choice(tmp_path, cell):
    path = write_csv(tmp_path, f"a,y\n1,2\n{cell}")
    name = "y" if cell == "3\n" else "a"
    with pytest.raises(ValueError, match=f"'{name}' has no value in row 1"):
        data.table(path, target="y", missing="refuse")


# Arrays


def test_arrays_with_a_test_set_keep_it(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (9, 4, 4, 3)).astype(np.uint8)
    y = np.asarray([3, 5, 7] * 3)
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    found = data.load(tmp_path / "a.npz")
    assert found.image_shape == (4, 4, 3)
    assert found.x_train.shape == (9, 48)
    np.testing.assert_allclose(found.x_test[0], x[0].ravel() / 255, rtol=1e-6)
    assert found.class_names == ("3", "5", "7")
    assert found.y_test.tolist() == [0, 1]


def test_arrays_without_a_test_set_are_split_by_class(tmp_path):
    y = np.asarray(["cat"] * 40 + ["dog"] * 10)
    np.savez(tmp_path / "a.npz", x=np.arange(100.0).reshape(50, 2), y=y)
    found = data.load(tmp_path / "a.npz", test_fraction=0.2, seed=3)
    assert np.bincount(found.y_test).tolist() == [8, 2]
    other = data.load(tmp_path / "a.npz", test_fraction=0.2, seed=4)
    assert found.sha256 != other.sha256
    assert sorted(np.concatenate([found.x_train, found.x_test])[:, 0]) == list(
        range(0, 100, 2)
    )


def test_floating_targets_are_a_regression_of_any_width(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.eye(10), y=np.ones((10, 2)))
    found = data.load(tmp_path / "a.npz")
    assert found.task == "regression"
    assert found.y_train.shape == (8, 2)


GOOD_X, GOOD_Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"x": GOOD_X}, r"an array `y`; it holds \['x'\]"),
        ({"y": GOOD_Y}, "an array `x_train`"),
        ({"x": GOOD_X, "y": GOOD_Y[:3]}, "one entry for each of the 20"),
        ({"x": GOOD_X[:, 0], "y": GOOD_Y}, "shape .examples, features"),
        ({"x": GOOD_X[:0], "y": GOOD_Y[:0]}, "is empty"),
        ({"x": GOOD_X.astype(complex), "y": GOOD_Y}, "must be real numbers"),
        ({"x": GOOD_X, "y": np.zeros(20, int)}, "between 2 and 1000 classes; got 1"),
        ({"x": GOOD_X, "y": GOOD_Y[:, None]}, "must be one label"),
        ({"x": GOOD_X, "y": np.where(GOOD_Y, np.nan, 1.0)}, "`y` must.*in row 1,"),
        (
            {"x": np.where(GOOD_X == 7, np.inf, GOOD_X), "y": GOOD_Y},
            "`x` must be finite.* got inf in row 3, column 1",
        ),
        ({"x": np.where(GOOD_X == 7, 1e300, GOOD_X), "y": GOOD_Y}, "column 1"),
        ({"x": GOOD_X, "y": np.asarray([{}] * 20)}, "without Python objects"),
        ({"x": GOOD_X, "y": GOOD_Y, "x_test": GOOD_X}, "an array `y_test`"),
        (
            {"x": GOOD_X, "y": GOOD_Y, "x_test": GOOD_X[:, :1], "y_test": GOOD_Y},
            r"shapes of `x` and `y` after the first axis, \(2,\)",
        ),
        (
            {"x": GOOD_X, "y": GOOD_Y, "x_test": GOOD_X, "y_test": GOOD_Y + 1},
            "only classes of the training set; got '2'",
        ),
        (
            {"x": GOOD_X, "y": GOOD_Y, "x_test": GOOD_X, "y_test": np.full(20, np.inf)},
            "only classes of the training set; got 'inf' in row 0",
        ),
    ],
)
def test_arrays_that_cannot_be_used_are_refused_by_name(tmp_path, held, message):
    np.savez(tmp_path / "a.npz", **held)
    with pytest.raises(ValueError, match=message):
        data.load(tmp_path / "a.npz")


def test_classes_of_real_numbers_are_named_alike_in_both_sets(tmp_path):
    y, ones = np.tile([0.5, 1.0], 10), np.ones(20)
    np.savez(tmp_path / "a.npz", x=GOOD_X, y=y, x_test=GOOD_X, y_test=ones)
    found = data.load(tmp_path / "a.npz", task="classification")
    assert found.class_names == ("0.5", "1")
    assert (found.y_test == 1).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="must be an npz file"):
        data.load(tmp_path / "a.npz")


# The one door


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        ValueError, match="digits, mnist, fashion_mnist.*got 'imagenet'"
    ):
        data.load("imagenet")


def test_arguments_that_do_not_apply_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`target` must be left out unless"):
        data.load("digits", target="y")
    with pytest.raises(ValueError, match="`task` of `digits`"):
        data.load("digits", task="regression")
    with pytest.raises(ValueError, match="`task` must be .* got 'guess'"):
        data.load(write_csv(tmp_path, MIXED), target="price", task="guess")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.load(tmp_path / "none.csv", target="y")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        data.load(tmp_path / "none.npz")
    np.savez(tmp_path / "a.npz", x=GOOD_X, y=GOOD_Y)
    with pytest.raises(ValueError, match="inside .0, 1.; got 1.5"):
        data.load(tmp_path / "a.npz", test_fraction=1.5)


def test_every_class_keeps_an_example_to_learn_from():
    from meanfield.data.dataset import split_rows

    labels = np.asarray([0] * 50 + [1] * 2 + [2])
    train, test = split_rows(53, test_fraction=0.5, seed=0, labels=labels)
    assert np.bincount(labels[train]).tolist() == [25, 1, 1]
    assert np.bincount(labels[test], minlength=3).tolist() == [25, 1, 0]
    assert sorted([*train, *test]) == list(range(53))
