"""File formats: real files of each are read as they were written, and damaged or foreign ones are refused."""

import gzip
import pickle
import struct
from functools import partial

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.data.sources import as_source

rng = np.random.default_rng(0)
ROWS = np.array([3, 0, 2])


def write_npy(path):
    np.save(path, np.arange(12).reshape(6, 2))


def write_idx(path, values=None, code=0x08):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) if values is None else values
    body = values.astype(values.dtype.newbyteorder(">")).tobytes()
    data = struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape) + body
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_cifar(folder, python, examples=20, protocol=2):
    """Both versions from one set of images, given as (N, 32, 32, 3)."""
    folder.mkdir(exist_ok=True)
    written = {}
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        images = rng.integers(0, 256, (examples, 32, 32, 3), dtype=np.uint8)
        labels = rng.integers(0, 10, examples, dtype=np.uint8)
        planes = images.transpose(0, 3, 1, 2).reshape(examples, -1)
        if python:
            batch = {b"data": planes, b"labels": labels.tolist(), b"batch_label": b"testing batch"}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
        else:
            np.concatenate([labels[:, None], planes], axis=1).tofile(folder / f"{name}.bin")
        written[name] = (images, labels)
    return written


# What is read is what was written.


def test_npy_files_are_memory_maps_by_field(tmp_path):
    write_npy(tmp_path / "x.npy")
    np.save(tmp_path / "y.npy", np.arange(6))
    arrays = ct.data.npy({"image": tmp_path / "x.npy", "label": str(tmp_path / "y.npy")})
    assert isinstance(arrays["image"], np.memmap)
    gathered = as_source(arrays).gather(ROWS)
    np.testing.assert_array_equal(gathered["image"], np.arange(12).reshape(6, 2)[ROWS])
    np.testing.assert_array_equal(gathered["label"], ROWS)


@pytest.mark.parametrize("python", [False, True], ids=["binary", "python"])
@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"], ids=["folder", "above"])
def test_cifar10(tmp_path, python, inside):
    written = write_cifar(tmp_path / inside if inside else tmp_path, python)
    split = ct.data.cifar10(tmp_path)
    train = [written[f"data_batch_{number}"] for number in range(1, 6)]
    np.testing.assert_array_equal(split.train["image"], np.concatenate([images for images, _ in train]))
    np.testing.assert_array_equal(split.train["label"], np.concatenate([labels for _, labels in train]))
    np.testing.assert_array_equal(split.test["image"], written["test_batch"][0])
    assert split.test["image"].dtype == np.uint8
    assert split.test["label"].dtype == np.int32


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar10_pickles_of_every_protocol(tmp_path, protocol):
    written = write_cifar(tmp_path, True, examples=3, protocol=protocol)
    np.testing.assert_array_equal(ct.data.cifar10(tmp_path).test["image"], written["test_batch"][0])


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "uint8"), (0x09, "int8"), (0x0B, "int16"), (0x0C, "int32"), (0x0D, "float32"), (0x0E, "float64")],
)
def test_idx_holds_arrays_of_six_types(tmp_path, end, code, dtype):
    values = rng.integers(-100, 100, (3, 4, 5)).astype(dtype)
    write_idx(tmp_path / f"x{end}", values, code)
    read = ct.data.idx(tmp_path / f"x{end}")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("name", ["{}-idx{}-ubyte", "{}-idx{}-ubyte.gz", "{}.idx{}-ubyte"])
def test_mnist(tmp_path, name):
    images, labels = rng.integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7, dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(tmp_path / name.format(f"{part}-images", 3), images)
        write_idx(tmp_path / name.format(f"{part}-labels", 1), labels)
    split = ct.data.mnist(tmp_path)
    for part in split:
        np.testing.assert_array_equal(part["image"], images[..., None])
        np.testing.assert_array_equal(part["label"], labels)


def test_text_is_bytes(tmp_path):
    (tmp_path / "a.txt").write_text("hé\n", encoding="utf-8")
    assert bytes(ct.data.text(tmp_path / "a.txt")) == "hé\n".encode()


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("suffix", [".bin", ".npy"])
def test_tokens_are_mapped_into_windows(tmp_path, dtype, suffix):
    ids = np.arange(60_000, 60_011).astype(dtype)
    path = tmp_path / f"t{suffix}"
    np.save(path, ids) if suffix == ".npy" else ids.tofile(path)
    mapped = ct.data.tokens(path, dtype=dtype)
    assert isinstance(mapped, np.memmap)
    gathered = ct.data.token_windows(mapped, 5).gather(np.array([1, 0]))
    np.testing.assert_array_equal(gathered["tokens"], [ids[5:10], ids[:5]])
    np.testing.assert_array_equal(gathered["label"], [ids[6:11], ids[1:6]])


def test_token_ids_that_do_not_fit_are_refused_not_wrapped(tmp_path):
    np.array([1, 2**31, 3], np.uint32).tofile(tmp_path / "t.bin")
    with pytest.raises(ct.DataError, match=r"got ids from 1 to 2147483648\. Is the dtype another"):
        ct.data.token_windows(ct.data.tokens(tmp_path / "t.bin", dtype="uint32"), 2).gather(np.array([0]))


# What is refused.


class Evil:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def cifar_python(path, contents):
    path.mkdir()
    (path / "test_batch").write_bytes(contents)
    for number in range(1, 6):
        (path / f"data_batch_{number}").write_bytes(contents)


def folder_of(write):
    def make(path):
        path.mkdir()
        write(path)

    return make


def mnist_mismatch(path):
    for part in ("train", "t10k"):
        write_idx(path / f"{part}-images-idx3-ubyte", np.zeros((2, 28, 28), np.uint8))
        write_idx(path / f"{part}-labels-idx1-ubyte", np.zeros(3, np.uint8))


def cut_idx(path):
    write_idx(path)
    truncate(path)


def longer_idx(path):
    write_idx(path)
    path.write_bytes(path.read_bytes() + b"x")


def cut_gzip(path):
    write_idx(path.with_suffix(".gz"))
    path.write_bytes(path.with_suffix(".gz").read_bytes()[:-9])


def cut_npy(path):
    write_npy(path)
    truncate(path)


def objects_npy(path):
    np.save(path, np.array([Evil()], dtype=object), allow_pickle=True)


def cut_cifar(path):
    write_cifar(path, False)
    truncate(path / "data_batch_3.bin")


def cifar100(path):
    write_cifar(path, False)
    np.full((1, 3073), 99, np.uint8).tofile(path / "data_batch_1.bin")


def cifar_without_batch(path):
    write_cifar(path, False)
    (path / "data_batch_4.bin").unlink()


npy = lambda path: ct.data.npy({"x": path})  # noqa: E731
write = lambda contents: lambda path: path.write_bytes(contents)  # noqa: E731
pickled = lambda value: partial(cifar_python, contents=pickle.dumps(value))  # noqa: E731
nothing = lambda path: None  # noqa: E731
tokens32 = partial(ct.data.tokens, dtype="uint32")

REFUSED = [
    (npy, nothing, "an .npy file must exist, got .*which is not there"),
    (npy, write(b""), "must have contents, got the empty file"),
    (npy, write(b"PK\x03\x04 an npz"), "must begin as np.save writes it"),
    (npy, cut_npy, "truncated"),
    (npy, objects_npy, "holds Python objects"),
    (npy, folder_of(nothing), "must be a file, got the folder"),
    (ct.data.text, nothing, "a text file must exist"),
    (ct.data.text, write(b""), "empty file"),
    (ct.data.tokens, nothing, "a token file must exist"),
    (ct.data.tokens, write(b"abc"), "whole uint16 numbers, got .* of 3 bytes"),
    (tokens32, write(b"abcdef"), "whole uint32 numbers"),
    (partial(ct.data.tokens, dtype="int64"), write(b"ab"), "must be uint16 or uint32, got dtype='int64'"),
    (ct.data.tokens, write_npy, r"a vector of integers, got .* shape \(6, 2\)"),
    (ct.data.idx, nothing, "an idx file must exist"),
    (ct.data.idx, write(b"\x89PNG...."), "magic number, got 89504e47"),
    (ct.data.idx, write(b"\0\0\x08\x03\0\0"), "3 dimensions in its header"),
    (ct.data.idx, cut_idx, r"shape \(2, 3, 4\) must have 24 bytes after its header, got 23 bytes"),
    (ct.data.idx, longer_idx, "got more"),
    (ct.data.idx, write(struct.pack(">BBBBII", 0, 0, 8, 2, 2**31, 2**31)), "got 0 bytes"),
    (ct.data.idx, cut_gzip, "EOFError"),
    (ct.data.idx, write(b"\x1f\x8bnot gzip at all"), "damaged"),
    (ct.data.mnist, folder_of(nothing), "must hold train-images-idx3-ubyte or .*gz"),
    (ct.data.mnist, folder_of(mnist_mismatch), "one row per example"),
    (ct.data.cifar10, folder_of(nothing), "must hold test_batch.bin or test_batch"),
    (ct.data.cifar10, cut_cifar, "records of 3073 bytes, got .*data_batch_3.bin of 61459 bytes"),
    (ct.data.cifar10, cifar_without_batch, "data_batch_4.bin, which is not there"),
    (ct.data.cifar10, cifar100, r"labels must be in \[0, 10\)"),
    (ct.data.cifar10, pickled({b"data": Evil(), b"labels": [1]}), "asks for builtins.print"),
    (ct.data.cifar10, pickled([1, 2]), "must hold data and labels, got list"),
    (ct.data.cifar10, pickled({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}), r"got \(2, 3\)"),
    (ct.data.cifar10, pickled({b"data": np.zeros((1, 3072), np.uint8), b"labels": [12]}), r"in \[0, 10\)"),
    (ct.data.cifar10, partial(cifar_python, contents=pickle.dumps({b"data": 1})[:-4]), "damaged"),
    (ct.data.cifar10, partial(cifar_python, contents=b"not a pickle"), "damaged"),
]


@pytest.mark.parametrize(("read", "make", "message"), REFUSED, ids=[message[:30] for _, _, message in REFUSED])
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path, capsys, read, make, message):
    path = tmp_path / "given"
    if make in (cut_npy, objects_npy, write_npy):
        path = tmp_path / "given.npy"
    make(path)
    with pytest.raises(ct.DataError, match=message) as caught:
        read(path)
    assert str(tmp_path) in str(caught.value) or "dtype=" in str(caught.value)
    assert "never be printed" not in capsys.readouterr().out


def test_npy_without_names_is_refused():
    with pytest.raises(ct.DataError, match="must name the fields"):
        ct.data.npy("images.npy")
