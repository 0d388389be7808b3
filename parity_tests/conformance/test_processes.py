"""The process utilities where there is one process: the same calls, types and refusals as with many."""

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import crosstrain as ct

from .tasks import MLP, images, loss_fn, prepared

Make = Callable[..., ct.Accelerator]
Pair = namedtuple("Pair", "left right")
TREE = {"b": [np.arange(6, dtype=np.float32).reshape(2, 3), None], "a": Pair(2, (1.5, True)), "empty": np.zeros((0, 2))}


def test_the_one_process_is_the_first_and_the_last(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    accelerator = make()
    assert (accelerator.process_index, accelerator.local_process_index, accelerator.process_count) == (0, 0, 1)
    assert accelerator.is_main_process
    assert accelerator.is_local_main_process
    assert accelerator.is_last_process
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        accelerator.wait_for_everyone()
    accelerator.print("loss", 1.5, sep=": ")
    assert capsys.readouterr().out == "loss: 1.5\n"


def test_decorated_functions_run_and_keep_their_names(make: Make) -> None:
    accelerator = make()

    @accelerator.on_process(index=0)
    @accelerator.on_last_process
    @accelerator.on_local_main_process
    @accelerator.on_main_process
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8
    assert double.__name__ == "double"
    assert accelerator.on_process(double, 0)(x=1) == 2
    with pytest.raises(ct.ConfigError, match=r"index must be in \[0, 1\), got index=1"):
        accelerator.on_process(double, 1)


def test_trees_keep_their_structure_and_types(make: Make) -> None:
    gathered = make().gather(TREE)
    assert list(gathered) == ["b", "a", "empty"]
    assert isinstance(gathered["a"], Pair)
    assert gathered["b"][0].dtype == np.float32
    assert gathered["b"][0].tolist() == TREE["b"][0].tolist()
    assert gathered["b"][1] is None
    assert gathered["empty"].shape == (0, 2)
    assert [each.tolist() for each in (gathered["a"].left, *gathered["a"].right)] == [[2], [1.5], [True]]
    assert [gathered["a"].left.dtype, gathered["a"].right[1].dtype] == [np.int64, bool]


@pytest.mark.parametrize(
    "collective",
    [
        lambda accelerator, tree: accelerator.reduce(tree, "max"),
        lambda accelerator, tree: accelerator.broadcast(tree),
        lambda accelerator, tree: accelerator.pad_across_processes(tree, pad_first=True),
    ],
    ids=["reduce", "broadcast", "pad"],
)
def test_other_collectives_give_a_copy(make: Make, collective: Any) -> None:
    values = np.arange(3.0)
    found, number = collective(make(), (values, 2))
    assert (found.tolist(), number.tolist()) == ([0, 1, 2], 2)
    found[0] = 7
    assert values[0] == 0


@pytest.mark.parametrize(
    ("dtype", "total", "mean"),
    [
        ("float16", "float16", "float16"),
        ("float32", "float32", "float32"),
        ("complex64", "complex64", "complex64"),
        ("int8", "int64", "float64"),
        ("uint16", "uint64", "float64"),
        ("bool", "int64", "float64"),
    ],
)
def test_types_of_reductions(make: Make, dtype: str, total: str, mean: str) -> None:
    accelerator, values = make(), np.ones(2, dtype)
    found = [accelerator.reduce(values, reduction).dtype.name for reduction in ("sum", "mean", "max", "min")]
    assert found == [total, mean, dtype, dtype]


def test_native_arrays_come_as_numpy(make: Make) -> None:
    accelerator = make(precision="fp32")
    batch = accelerator.to_device({"x": np.arange(4, dtype=np.float32), "y": np.arange(4)})
    found = accelerator.gather(batch)
    assert all(type(values) is np.ndarray for values in found.values())
    assert found["x"].dtype == np.float32
    assert found["y"].tolist() == [0, 1, 2, 3]
    assert accelerator.reduce(batch["x"]).tolist() == [0, 1, 2, 3]


def test_parameters_that_train_can_be_gathered(make: Make) -> None:
    accelerator = make(precision="fp32")
    state = prepared(accelerator, MLP)
    found = accelerator.gather({f"{i}": each for i, each in enumerate(_native_parameters(state))})
    assert sorted(each.size for each in found.values()) == sorted(
        each.size for each in state.snapshot().params.values()
    )


def _native_parameters(state: Any) -> list[Any]:
    return list(state.params.values()) if isinstance(state.params, dict) else list(state.params)


def test_more_than_one_message_arrives_whole(make: Make) -> None:
    """40 MB of numbers, and small ones of other types beside them."""
    accelerator, drawn = make(), np.random.default_rng(0).normal(size=(5, 10**6))
    found = accelerator.gather({"large": drawn, "small": np.float32(1), "text": np.arange(3)})
    assert np.array_equal(found["large"], drawn)
    assert found["small"].tolist() == [1]
    assert accelerator.gather_object("x" * 10**7) == ["x" * 10**7]


def test_objects_and_triggers(make: Make) -> None:
    accelerator = make()
    assert accelerator.gather_object({"any": Pair}) == [{"any": Pair}]
    assert accelerator.broadcast_object([None, 1]) == [None, 1]
    assert not accelerator.check_trigger()
    accelerator.set_trigger()
    assert [accelerator.check_trigger(), accelerator.check_trigger()] == [True, False]


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("inputs", [[], [1, 2, 3], (1, 2), {"a": [1, 2], "b": (3, 4)}, [[1, 2], [3]]], ids=str)
def test_one_process_takes_all_inputs(make: Make, inputs: Any, padding: bool) -> None:
    with make().split_between_processes(inputs, apply_padding=padding) as part:
        assert part == inputs


def test_parts_of_arrays_are_arrays_of_their_kind(make: Make) -> None:
    accelerator = make()
    native = accelerator.to_device({"x": np.arange(4.0)})["x"]
    with accelerator.split_between_processes({"native": native, "numpy": np.arange(4)}) as part:
        assert type(part["native"]) is type(native)
        assert part["native"].tolist() == [0, 1, 2, 3]
        assert isinstance(part["numpy"], np.ndarray)


def test_metrics_over_99_padded_examples_are_over_99(make: Make) -> None:
    accelerator, data = make(), images(99)
    loader = accelerator.loader({**data, "index": np.arange(99)}, batch_size=20, shuffle=True)
    kept = [accelerator.gather_for_metrics((batch["index"], batch["label"]), batch) for batch in loader]
    order = np.concatenate([index for index, _ in kept])
    assert len(order) == 99
    assert sorted(order) == list(range(99))
    assert np.concatenate([label for _, label in kept]).tolist() == data["label"][order].tolist()
    full = accelerator.to_device({"x": np.arange(3.0)})
    assert accelerator.gather_for_metrics(full["x"], full).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("attempt", "error", "message"),
    [
        (
            lambda a: a.gather({"a": ["text"]}),
            ct.DataError,
            r"a.0 must be an array or a number, got str. Use gather_obj",
        ),
        (lambda a: a.reduce(np.array(["x"])), ct.DataError, "value must be numbers, got <U1"),
        (lambda a: a.reduce(1, "median"), ct.ConfigError, "one of sum, mean, max, min, got reduction='median'"),
        (
            lambda a: a.broadcast(1, from_process=1),
            ct.ConfigError,
            r"from_process must be in \[0, 1\), got from_process=1",
        ),
        (lambda a: a.broadcast_object(1, -1), ct.ConfigError, r"from_process must be in \[0, 1\), got from_process=-1"),
        # Nobody would be process 0.5, without a word; and a boolean picks no row, but is a mask.
        (lambda a: a.on_process(print, index=0.5), ct.ConfigError, r"index must be in \[0, 1\), got index=0.5"),
        (lambda a: a.broadcast(1, False), ct.ConfigError, r"from_process must be in \[0, 1\), got from_process=False"),
        (
            lambda a: a.pad_across_processes({"n": np.arange(3)}, pad_value=0.5),
            ct.DataError,
            "pad_value must fit into n, got pad_value=0.5 for int64",
        ),
        (
            lambda a: a.split_between_processes({"a": [1], "b": [1, 2]}).__enter__(),
            ct.DataError,
            r"inputs must all have the same length, got {'a': 1, 'b': 2}",
        ),
        (
            lambda a: a.split_between_processes("text").__enter__(),
            ct.DataError,
            "inputs must be a list, a tuple, an array or a dict of these, got str",
        ),
        (
            lambda a: a.gather_for_metrics(np.ones(3), {"weight": np.ones(2)}),
            ct.DataError,
            "value must have one row per example of the batch, got 3 rows over all processes for 2 examples",
        ),
    ],
)
def test_what_cannot_be_exchanged_is_refused(make: Make, attempt: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        attempt(make())


def test_debug_changes_no_number(make: Make) -> None:
    def losses(debug: bool) -> list[float]:
        accelerator = make(debug=debug)
        state, step = prepared(accelerator, MLP), accelerator.train_step(loss_fn)
        return [step(state, images(8))["loss"] for _ in range(3)]

    assert losses(True) == losses(False)
