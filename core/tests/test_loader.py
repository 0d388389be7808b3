"""`Loader`: the same order on any number of processes, padding that does not count, epochs, types and checks."""

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.data.loader import Loader, LoaderSpec, Placement
from crosstrain.data.sources import as_source
from crosstrain.random import permutation


def make(source, *, process=0, processes=1, devices=None, float_dtype="float32", **spec):
    """A loader whose batches stay on the host."""
    placement = Placement(
        part=process,
        parts=processes,
        data_size=devices or processes,
        float_dtype=float_dtype,
        put=lambda batch: batch,
    )
    return Loader(source, LoaderSpec(**spec), placement)


def table(examples):
    return {"x": np.arange(examples, dtype=np.float32), "label": np.arange(examples) % 3}


class Stream:
    """Examples that can only be iterated, as often as one likes."""

    def __init__(self, examples):
        self.examples = examples

    def __iter__(self):
        return ({"x": np.float32(index), "label": index % 3} for index in range(self.examples))


SOURCES = {"arrays": table, "stream": Stream}


def global_epoch(source, processes, **spec):
    """One epoch as all processes together see it: a dict of arrays per global batch."""
    loaders = [list(make(source, process=p, processes=processes, **spec)) for p in range(processes)]
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*loaders, strict=True)
    ]


def real(batches, name="x"):
    """A field of all examples that count."""
    return np.concatenate([batch[name][batch["weight"] > 0] if "weight" in batch else batch[name] for batch in batches])


# Order.


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [8, 10, 30])
def test_any_number_of_processes_sees_the_same_global_order(batch_size, shuffle):
    spec = {"batch_size": batch_size, "shuffle": shuffle, "seed": 5}
    expected = permutation(5, 0, 99) if shuffle else np.arange(99)
    for processes in (1, 2, 4):
        batches = global_epoch(table(99), processes, **spec)
        np.testing.assert_array_equal(real(batches), expected)
        assert [int((batch["weight"] > 0).sum()) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_a_stream_keeps_its_order_on_any_number_of_processes():
    for processes in (1, 2, 4):
        np.testing.assert_array_equal(real(global_epoch(Stream(99), processes, batch_size=10)), np.arange(99))


def test_every_epoch_has_its_own_order_that_set_epoch_brings_back():
    loader = make(table(50), batch_size=10, shuffle=True, seed=3)
    epochs = [real(loader) for _ in range(3)]
    assert loader.epoch == 3
    for epoch, order in enumerate(epochs):
        np.testing.assert_array_equal(order, permutation(3, epoch, 50))
    loader.set_epoch(1)
    np.testing.assert_array_equal(real(loader), epochs[1])
    assert loader.epoch == 2


def test_without_shuffling_every_epoch_is_the_same():
    loader = make(table(20), batch_size=10, seed=3)
    for _ in range(2):
        np.testing.assert_array_equal(real(loader), np.arange(20))


# Padding.


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [8, 10, 99, 128])
def test_99_examples_count_99(kind, processes, batch_size):
    batches = global_epoch(SOURCES[kind](99), processes, batch_size=batch_size)
    counted = [batch.get("weight", np.ones(len(batch["x"]))) for batch in batches]
    assert sum(weight.sum() for weight in counted) == 99
    assert sum(batch["x"] @ weight for batch, weight in zip(batches, counted, strict=True)) == np.arange(99).sum()
    assert {len(batch["x"]) % processes for batch in batches} == {0}
    assert len({len(batch["x"]) for batch in batches}) == 1, "all batches have one shape"


def test_batches_that_need_no_padding_carry_no_weights():
    assert set(next(iter(make(table(20), batch_size=10)))) == {"x", "label"}
    assert set(next(iter(make(table(25), batch_size=10, drop_last=True)))) == {"x", "label"}


def test_weights_of_the_source_are_kept_and_padding_sets_them_to_zero():
    source = {"x": np.arange(5.0), "weight": np.array([2.0, 0.5, 1, 1, 4])}
    (first, last) = make(source, batch_size=4, devices=4)
    assert first["weight"].tolist() == [2, 0.5, 1, 1]
    assert last["weight"].tolist() == [4, 0, 0, 0]


def weightless(kind):
    """Nine examples of which the first eight weigh nothing, as arrays, examples, a stream, and from a transform."""
    weights = np.array([0.0] * 8 + [1.0])
    arrays = {"x": np.arange(9.0), "weight": weights}
    if kind == "arrays":
        return arrays, {}
    if kind == "transform":
        return {"x": arrays["x"]}, {"transform": lambda batch: {**batch, "weight": (batch["x"] == 8).astype(float)}}
    return [{"x": np.float32(x), "weight": w} for x, w in zip(arrays["x"], weights, strict=True)], {}


@pytest.mark.parametrize("kind", ["arrays", "transform", "examples"])
def test_a_batch_in_which_nothing_counts_is_refused(kind):
    source, spec = weightless(kind)
    named = "batch 0 of epoch 0" if kind == "arrays" else "a batch"
    with pytest.raises(
        ct.DataError, match=f"{named} must hold an example whose weight is not 0, got 4 that all weigh 0"
    ):
        list(make(source, batch_size=4, **spec))
    # Beside the one example that counts the same eight are in order.
    assert len(list(make(source, batch_size=9, **spec))) == 1


def test_batches_before_one_in_which_nothing_counts_are_given():
    """Small batches are gathered several at once, and are handed out up to the one that is refused."""
    source = {"x": np.arange(60.0), "weight": np.repeat([1.0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1], 5)}
    found = []
    with pytest.raises(ct.DataError, match="batch 5 of epoch 0 must hold an example"):
        found.extend(make(source, batch_size=5))
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in found]), np.arange(25.0))


@pytest.mark.parametrize("process", [0, 1])
def test_only_the_global_batch_has_to_weigh_something(process):
    """The first process's half weighs nothing, and neither process minds; both refuse a batch without any weight."""
    source = {"x": np.arange(4.0), "weight": np.array([0.0, 0.0, 1.0, 1.0])}
    assert len(list(make(source, process=process, processes=2, batch_size=4))) == 1
    with pytest.raises(ct.DataError, match="batch 0 of epoch 0"):
        list(make(source, process=process, processes=2, batch_size=2))


def test_padding_that_would_count_does_not_save_a_batch():
    """The last batch is one example of weight 0, padded by one of weight 1."""
    with pytest.raises(ct.DataError, match=r"batch 1 of epoch 0 .* got 1 that all weigh 0"):
        list(make({"x": np.arange(3.0), "weight": np.array([1.0, 1.0, 0.0])}, batch_size=2))


@pytest.mark.parametrize("float_dtype", ["float32", "float64"])
def test_weights_have_the_type_of_the_loss(float_dtype):
    assert next(iter(make(table(5), batch_size=4, float_dtype=float_dtype)))["weight"].dtype == float_dtype


@pytest.mark.parametrize("kind", SOURCES)
def test_drop_last_leaves_out_what_does_not_fill_a_batch(kind):
    loader = make(SOURCES[kind](25), batch_size=10, drop_last=True)
    np.testing.assert_array_equal(real(loader), np.arange(20))
    if kind == "arrays":
        assert (len(loader), loader.example_count, loader.batch_size) == (2, 20, 10)


@pytest.mark.parametrize("kind", SOURCES)
def test_without_even_batches_the_last_one_is_short(kind):
    batches = global_epoch(SOURCES[kind](22), 2, batch_size=8, even_batches=False)
    assert [len(batch["x"]) for batch in batches] == [8, 8, 6]
    np.testing.assert_array_equal(real(batches), np.arange(22))


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    ("examples", "batch_size", "message"),
    [
        (20, 10, "batch_size must be a multiple of the data axis, got 10 examples on 4 devices. Use 8 or 12"),
        (20, 3, "got 3 examples on 4 devices. Use 4, or let the loader pad with even_batches=True"),
        (22, 8, "the last batch must be a multiple of the data axis, got 6 examples on 4 devices. Use 4 or 8"),
    ],
)
def test_without_even_batches_a_batch_that_does_not_divide_is_refused(kind, examples, batch_size, message):
    with pytest.raises(ct.DataError) as caught:
        list(make(SOURCES[kind](examples), devices=4, batch_size=batch_size, even_batches=False))
    assert message in str(caught.value)


def test_without_even_batches_a_dropped_last_batch_may_be_short():
    assert len(list(make(table(22), devices=4, batch_size=8, even_batches=False, drop_last=True))) == 2


# Epochs of streams.


def test_a_stream_starts_again_for_every_epoch():
    loader = make(Stream(7), batch_size=4)
    assert [len(real(loader)) for _ in range(2)] == [7, 7]


def test_a_generator_is_refused_for_a_second_epoch():
    loader = make(iter(Stream(7)), batch_size=4)
    assert len(real(loader)) == 7
    with pytest.raises(ct.DataError, match=r"an iterator that is used up.*not a generator"):
        list(loader)


def test_a_stream_has_no_length():
    with pytest.raises(TypeError, match=r"pass steps to Trainer\.fit"):
        len(make(Stream(7), batch_size=4))


# Types and transforms.


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.zeros(4, np.float64), "float32"),
        (np.zeros(4, np.float16), "float32"),
        (np.zeros(4, np.int64), "int32"),
        (np.zeros(4, np.uint64), "int32"),
        (np.array([-(2**31), 2**31 - 1] * 2), "int32"),
        (np.zeros(4, np.uint8), "uint8"),
        (np.zeros(4, np.int32), "int32"),
        (np.zeros(4, bool), "bool"),
    ],
)
def test_types_on_the_way_to_the_device(values, expected):
    (batch,) = make({"x": values}, batch_size=4)
    assert batch["x"].dtype == expected
    np.testing.assert_array_equal(batch["x"], values)


@pytest.mark.parametrize("far", [2**31, -(2**31) - 1])
def test_an_integer_that_does_not_fit_into_32_bits_is_refused(far):
    with pytest.raises(ct.DataError, match=f"'x' must fit into 32 bits, got values from .*{far}"):
        list(make({"x": np.array([0, far])}, batch_size=2))


def test_a_transform_sees_every_local_batch_before_it_is_cast():
    seen = []

    def halve(batch):
        seen.append((batch["x"].dtype, batch["x"].shape, set(batch)))
        return {"half": batch["x"] / 2}

    batches = global_epoch({"x": np.arange(6)}, 2, batch_size=4, transform=halve)
    assert seen == [(np.int64, (2,), {"x"})] * 4
    np.testing.assert_array_equal(real(batches, "half"), np.arange(6) / 2)
    assert {name: values.dtype for name, values in batches[0].items()} == {"half": "float32", "weight": "float32"}


# Checks before any batch is made.


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_out_of_range_is_refused_with_its_place(kind, label):
    labels = np.array([0, 1, 2, label, 0])
    rows = {"arrays": {"label": labels}, "stream": [{"label": value} for value in labels]}[kind]
    with pytest.raises(ct.DataError, match=rf"label must be in \[0, 3\), got label={label} at index \[3\]"):
        list(make(rows, batch_size=5, class_counts={"label": 3}))


def test_labels_of_arrays_are_checked_before_the_first_batch():
    with pytest.raises(ct.DataError, match=r"Fix the labels, or build the model for 8 classes"):
        make({"label": np.array([0, 7])}, batch_size=1, class_counts={"label": 3})


def test_the_ignored_label_is_in_range():
    assert len(make({"label": np.array([[0, -100], [2, 1]])}, batch_size=2, class_counts={"label": 3})) == 1


@pytest.mark.parametrize(
    ("source", "spec", "message"),
    [
        (table(4), {"batch_size": None}, "batch_size must be given"),
        (table(4), {"batch_size": 0}, "batch_size=0"),
        (table(4), {"batch_size": -2}, "batch_size=-2"),
        (table(0), {"batch_size": 2}, "at least one example, got an empty one"),
        ([], {"batch_size": 2}, "at least one example, got an empty one"),
        (table(3), {"batch_size": 4, "drop_last": True}, "got 3 examples for batch_size=4"),
        (table(3), {"batch_size": 1, "class_counts": {"lable": 3}}, r"'lable', but the source has \['label', 'x'\]"),
    ],
)
def test_a_loader_that_cannot_work_is_refused_when_it_is_made(source, spec, message):
    with pytest.raises(ct.DataError, match=message):
        make(source, **spec)


def test_a_stream_of_nothing_is_refused_when_it_is_read():
    with pytest.raises(ct.DataError, match="an iterable that gave none"):
        list(make(Stream(0), batch_size=2))


def test_an_iterable_that_fills_no_batch_is_refused_and_not_asked_for_ever():
    loader = make(Stream(3), batch_size=4, drop_last=True)
    with pytest.raises(ct.DataError, match="must fill one batch when drop_last=True, got an iterable of 3 examples"):
        list(loader)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "must be a dict of arrays, got list"),
        ({}, "must be a dict of arrays, got an empty one"),
        ({"x": np.zeros(0)}, "at least 1"),
        ({"x": 1.0}, "at least 1"),
        ({"x": np.zeros(4), "y": np.zeros(2)}, r"\{'x': 4, 'y': 2\}"),
        ({"x": np.zeros(6)}, "got 6 examples on 4 devices. Use 4 or 8"),
        ({"x": np.array(["a"] * 4)}, "'x' must be numbers"),
    ],
)
def test_a_batch_made_by_hand_is_checked(batch, message):
    placement = Placement(part=0, parts=1, data_size=4, float_dtype="float32", put=lambda b: b)
    with pytest.raises(ct.DataError, match=message):
        placement.check(batch)


@pytest.mark.parametrize("engine", ["torch", "jax.numpy"])
def test_bfloat16_and_tensors_of_a_graph_are_taken(engine):
    library = pytest.importorskip(engine)
    values = library.ones((3, 2), dtype=library.bfloat16) * 1.5
    if engine == "torch":
        values.requires_grad_()
    for source in ({"x": values}, [{"x": each} for each in values]):
        gathered = as_source(source).gather(np.array([2, 0]))["x"]
        assert gathered.dtype == np.float32
        assert gathered.tolist() == [[1.5, 1.5]] * 2
