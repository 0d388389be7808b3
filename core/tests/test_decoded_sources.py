"""Sources that decode: image folders, parquet, array_record; real files, and what is refused."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

import crosstrain as ct
from crosstrain.data.loader import Loader, LoaderSpec, Placement

rng = np.random.default_rng(0)
ROWS = np.array([3, 0, 2])


def batches(source, **spec):
    placement = Placement(part=0, parts=1, data_size=1, float_dtype="float32", put=lambda batch: batch)
    return list(Loader(source, LoaderSpec(batch_size=2, **spec), placement))


# Image folders.


def write_images(root, size=(9, 7), channels=3, per_class=2):
    """PNG files, size (H, W); gives the pixels in the order of the source."""
    every = []
    for name in ("ant", "bee", "cow"):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
            Image.fromarray(pixels if channels > 1 else pixels[..., 0]).save(root / name / f"{index}.png")
            every.append(pixels)
    return np.stack(every)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_folder(tmp_path, channels):
    pixels = write_images(tmp_path, channels=channels)
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    source = ct.data.image_folder(tmp_path, channels=channels)
    assert (len(source), source.classes) == (6, ["ant", "bee", "cow"])
    gathered = source.gather(ROWS)
    np.testing.assert_array_equal(gathered["image"], pixels[ROWS])
    assert gathered["label"].tolist() == [1, 0, 1]
    assert gathered["label"].dtype == np.int32


@pytest.mark.parametrize(("size", "shape"), [(5, (5, 5)), ((4, 6), (4, 6)), ((9, 7), (9, 7))])
def test_images_are_resized_as_pillow_does(tmp_path, size, shape):
    pixels = write_images(tmp_path)
    gathered = ct.data.image_folder(tmp_path, size=size).gather(ROWS)["image"]
    expected = [np.asarray(Image.fromarray(pixels[row]).resize(shape[::-1], Image.Resampling.BILINEAR)) for row in ROWS]
    np.testing.assert_array_equal(gathered, expected)


def test_images_of_several_sizes_need_a_size(tmp_path):
    write_images(tmp_path)
    Image.new("RGB", (3, 3)).save(tmp_path / "bee" / "small.png")
    source = ct.data.image_folder(tmp_path)
    with pytest.raises(ct.DataError, match="same shapes"):
        source.gather(np.arange(7))
    assert ct.data.image_folder(tmp_path, size=8).gather(np.arange(7))["image"].shape == (7, 8, 8, 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", [100, 0, 20])
def test_a_damaged_image_is_named(tmp_path, workers, keep):
    write_images(tmp_path)
    path = tmp_path / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ct.DataError, match=r"an image must be readable, got .*bee.1\.png"):
        batches(ct.data.image_folder(tmp_path), workers=workers)


@pytest.mark.parametrize(("kind", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_an_image_of_more_than_8_bits_is_refused(tmp_path, kind, mode):
    (tmp_path / "ant").mkdir()
    Image.fromarray(np.full((4, 4), 300, kind)).save(tmp_path / "ant" / "deep.tiff")
    with pytest.raises(ct.DataError, match=f"8 bits for each channel, got .*deep.tiff of pillow's mode '{mode}'"):
        batches(ct.data.image_folder(tmp_path))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda root: None, {}, "a folder with one sub-folder per class"),
        (lambda root: root.mkdir(), {}, "must have images"),
        (lambda root: (write_images(root), (root / "dog").mkdir()), {}, "got none in dog"),
        (write_images, {"channels": 2}, "channels=2"),
        (write_images, {"size": 0}, "size=0"),
        (write_images, {"size": 2.5}, "size=2.5"),
    ],
)
def test_a_folder_that_holds_no_classes_is_refused(tmp_path, make, options, message):
    make(tmp_path / "images")
    with pytest.raises(ct.DataError, match=message):
        ct.data.image_folder(tmp_path / "images", **options)


# Parquet.

TABLE = {
    "x": np.arange(7, dtype=np.int16),
    "y": np.linspace(0, 1, 7),
    "flag": np.arange(7) % 2 == 0,
    "pair": np.arange(14, dtype=np.float32).reshape(7, 2),
}


def write_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def as_columns(table):
    return {name: pa.array(values.tolist() if values.ndim > 1 else values) for name, values in table.items()}


@pytest.mark.parametrize("group", [1, 3, 100])
def test_parquet_numbers_are_arrays_over_files_and_row_groups(tmp_path, group):
    files = [write_parquet(tmp_path / f"{i}.parquet", as_columns(TABLE), row_group_size=group) for i in range(2)]
    source = ct.data.parquet(files)
    assert len(source) == 14
    rows = np.array([12, 0, 7, 6])
    for name, values in source.gather(rows).items():
        np.testing.assert_array_equal(values, np.concatenate([TABLE[name]] * 2)[rows])
    assert source.fields().keys() == TABLE.keys()
    assert source.fields()["x"].dtype == np.int16


@pytest.mark.parametrize(("first", "second"), [("int64", "float64"), ("uint8", "int32")])
def test_parquet_files_of_unlike_types_are_refused(tmp_path, first, second):
    for name, kind in (("a", first), ("b", second)):
        pq.write_table(pa.table({"x": np.array([1, 2, 3], kind)}), tmp_path / f"{name}.parquet")
    with pytest.raises(ct.DataError, match=f"column 'x' must have one type in all files, got {first} and {second}"):
        ct.data.parquet([tmp_path / "a.parquet", tmp_path / "b.parquet"])


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_parquet_files_of_text_and_of_numbers_are_refused(tmp_path, names):
    files = [tmp_path / f"{name}.parquet" for name in names]
    for path, column in zip(files, (["a", "b"], [1, 2]), strict=True):
        write_parquet(path, {"x": column})
    with pytest.raises(ct.DataError, match="column 'x' must have one type in all files, got text in some and int64"):
        ct.data.parquet(sorted(files))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_parquet_files_without_rows_may_stand_among_others(tmp_path, at):
    files = [write_parquet(tmp_path / f"{i}.parquet", as_columns(TABLE)) for i in range(2)]
    empty = pq.read_table(files[0]).slice(0, 0)
    files.insert(at, tmp_path / "empty.parquet")
    pq.write_table(empty, files[at])
    rows = np.array([12, 0, 7, 6])
    for name, values in ct.data.parquet(files).gather(rows).items():
        np.testing.assert_array_equal(values, np.concatenate([TABLE[name]] * 2)[rows])


def test_parquet_text_and_bytes_reach_a_transform(tmp_path):
    words, blobs = ["a", "bb", "", "dé", "e"], [b"\0", b"1", b"", b"3", b"4"]
    path = write_parquet(tmp_path / "t.parquet", {"text": words, "blob": blobs, "n": range(5)}, row_group_size=2)
    source = ct.data.parquet(path)
    gathered = source.gather(ROWS)
    assert gathered["text"].tolist() == [words[row] for row in ROWS]
    assert gathered["blob"].tolist() == [blobs[row] for row in ROWS]
    given = batches(
        ct.data.parquet(str(path), columns=["text"]), transform=ct.data.tokenise(lambda text: list(text.encode()), 3)
    )
    assert given[0]["tokens"].tolist() == [[97, 0, 0], [98, 98, 0]]
    with pytest.raises(ct.DataError, match="'text' must be numbers"):
        batches(source)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1, None, 3]), "'c' must have no missing values, got 1"),
        (pa.array([[1], [2, 3], [4]]), r"lists of one length in every row, got \[1, 2\]"),
        (pa.array([[1, 2], [2, None], [4, 4]]), "missing"),
        (pa.array([{"a": 1}] * 3), "got struct"),
        (pa.array([[[1]], [[2]], [[3]]]), "got list"),
        (pa.array([[1, 2], [3, 4], [5]]).slice(0, 3), "lists of one length"),
    ],
)
def test_a_column_that_is_no_array_is_refused(tmp_path, column, message):
    path = write_parquet(tmp_path / "t.parquet", {"c": column, "d": [1, 2, 3]})
    with pytest.raises(ct.DataError, match=message):
        ct.data.parquet(path)
    assert len(ct.data.parquet(path, columns=["d"])) == 3


def test_lists_of_another_length_in_a_later_row_group_are_refused(tmp_path):
    path = write_parquet(tmp_path / "t.parquet", {"c": [[1, 2], [3, 4], [5], [6]]}, row_group_size=2)
    with pytest.raises(ct.DataError, match=r"lists of one length, got \(2,\) and \(1,\)"):
        ct.data.parquet(path)


@pytest.mark.parametrize(
    ("contents", "columns", "message"),
    [
        (None, None, "a parquet file must exist"),
        (b"PAR1 but no more", None, "truncated or of another format"),
        (slice(0, -5), None, "truncated or of another format"),
        (slice(0, None), ["z"], r"got \['z'\].* has \['x', 'y', 'flag', 'pair'\]"),
    ],
)
def test_a_parquet_file_that_cannot_be_used_is_refused(tmp_path, contents, columns, message):
    path = tmp_path / "t.parquet"
    if isinstance(contents, slice):
        write_parquet(path, as_columns(TABLE))
        contents = path.read_bytes()[contents]
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ct.DataError, match=message):
        ct.data.parquet(path, columns=columns)


def test_no_parquet_file_at_all():
    with pytest.raises(ct.DataError, match="at least one file"):
        ct.data.parquet([])


# array_record.


def write_records(path, values):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for value in values:
        writer.write(int(value).to_bytes(4, "little"))
    writer.close()
    return path


def decode(record):
    value = int.from_bytes(record, "little")
    if value == 13:
        raise ValueError("unlucky")
    return {"x": np.int32(value)}


@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("given", ["list", "pattern"])
def test_records_of_several_files(tmp_path, workers, given):
    files = [write_records(tmp_path / f"{i}.array_record", np.arange(5) + 5 * i) for i in range(2)]
    source = ct.data.array_record(files if given == "list" else str(tmp_path / "*.array_record"), decode)
    assert len(source) == 10
    values = np.concatenate([batch["x"] for batch in batches(source, shuffle=True, workers=workers)])
    np.testing.assert_array_equal(values, ct.random.permutation(0, 0, 10))


def test_a_grain_source_is_a_source(tmp_path):
    # In an interpreter of its own: grain loads JAX, which other tests of this process may not expect.
    write_records(tmp_path / "r.array_record", np.arange(5))
    code = f"""
import grain, crosstrain as ct
from crosstrain.data.sources import as_source
records = grain.sources.ArrayRecordDataSource({str(tmp_path / "r.array_record")!r})
data = grain.MapDataset.source(records).map(lambda record: {{"x": int.from_bytes(record, "little")}})
print(as_source(data).gather(__import__("numpy").array([3, 0, 2]))["x"].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[3, 0, 2]", done.stderr


@pytest.mark.parametrize("workers", [0, 2])
def test_a_record_that_cannot_be_decoded_is_named(tmp_path, workers):
    source = ct.data.array_record(write_records(tmp_path / "r.array_record", [10, 11, 12, 13]), decode)
    with pytest.raises(ValueError, match="unlucky") as caught:
        batches(source, workers=workers)
    assert caught.value.__notes__ == ["This was example 3 of the source."]


@pytest.mark.parametrize(
    ("contents", "message"),
    [(None, "must exist"), (b"", "empty file"), (b"not records" * 10000, "r.array_record"), ("cut", "r.array_record")],
)
def test_a_file_that_holds_no_records_is_refused(tmp_path, contents, message):
    path = tmp_path / "r.array_record"
    if contents == "cut":
        write_records(path, np.arange(50_000))
        contents = path.read_bytes()[:-70_000]
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(ct.DataError, match=message):
        ct.data.array_record(path, decode)


def test_a_pattern_that_matches_nothing_is_refused(tmp_path):
    with pytest.raises(ct.DataError, match="must match at least one file"):
        ct.data.array_record(str(tmp_path / "*.array_record"), decode)


# Packages that are not there.


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("PIL", "ct.data.image_folder('.')"),
        ("pyarrow", "ct.data.parquet('x')"),
        ("array_record", "ct.data.array_record('x', dict)"),
    ],
)
def test_a_missing_package_says_what_to_install(package, call):
    code = f"import sys; sys.modules[{package!r}] = None; import crosstrain as ct; {call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    last = done.stderr.splitlines()[-1]
    assert "DataError" in last
    assert "pip install 'crosstrain[data]'" in last
