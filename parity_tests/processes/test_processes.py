"""What processes do together: two and four that torchrun starts, and two of JAX with two devices each."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from crosstrain.data.loader import Loader, LoaderSpec, Placement
from crosstrain.data.order import EpochOrder
from crosstrain.exchange import Call, disagreement
from crosstrain.processes import local_index
from parity_tests import starting

from . import scenarios

WORKER = Path(__file__).parent / "worker.py"
LAUNCHES = [("torch", 2), ("torch", 4), ("jax", 2)]
Results = list[dict[str, Any]]


@pytest.fixture(scope="module", params=LAUNCHES, ids=lambda launch: f"{launch[0]}, {launch[1]} processes")
def launch(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Results]:
    """The engine, and what each process wrote. Every check runs in this one launch: starting takes longest."""
    backend, processes = request.param
    folder = tmp_path_factory.mktemp("processes")
    starting.run(*starting.commands(backend, processes, WORKER, backend, folder), timeout_s=180)
    return backend, [json.loads((folder / f"{index}.json").read_text()) for index in range(processes)]


def test_every_process_knows_its_place(launch: Any) -> None:
    _, results = launch
    count = len(results)
    for index, each in enumerate(results):
        found, last = each["identity"], index == count - 1
        assert found["place"] == [index, count, index]
        assert found["is"] == [index == 0, index == 0, last]
        own = {
            "main": index == 0,
            "local main": index == 0,
            "last": last,
            "second": index == 1,
            "decorated": index == 1,
        }
        assert found["ran"] == {name: index if here else None for name, here in own.items()}
        assert found["printed"] == ("a-0!" if index == 0 else "")


def test_the_main_process_goes_first(launch: Any) -> None:
    """The main process finds no file; the others find at least its file, and go on when it fails."""
    _, results = launch
    for index, each in enumerate(results):
        for name in ("main_process_first", "local_main_process_first"):
            found = each["order"][name]
            assert (f"{name}0" in found) if index else found == []
        assert each["order"].get("raised") == (None if index else ["'the others go on'"])


def test_collectives_are_numpys_to_the_bit_for_random_trees(launch: Any) -> None:
    _, results = launch
    for each in results:
        assert each["trees"]["wrong"] == []
        assert each["trees"]["compared"] > 6 * 4 * scenarios.SEEDS


def test_padding(launch: Any) -> None:
    _, results = launch
    count = len(results)
    shapes = {"rows": [count, 2], "scalar": []}
    first = [row for k in range(1, count + 1) for row in [-1] * (count - k) + [k] * k]
    last = [[k] * k + [0] * (count - k) for k in range(1, count + 1) for _ in range(2)]
    for each in results:
        assert each["trees"]["padded"] == [[shapes, shapes, shapes], first, last]


def test_objects_and_triggers(launch: Any) -> None:
    _, results = launch
    count = len(results)
    for each in results:
        found = each["objects"]
        assert found["gathered"] == [{"index": index, "none": None} for index in range(count)]
        assert found["lengths"] == [10 ** (2 * index + 1) for index in range(count)]
        assert found["broadcast"] == count - 1
        assert found["triggers"] == [False, True, False]


def test_parts_of_the_processes_make_up_the_inputs(launch: Any) -> None:
    _, results = launch
    count = len(results)
    cases = [(length, padding) for length in range(10) for padding in (False, True)]
    for case, (length, padding) in enumerate(cases):
        parts = [each["split"][case] for each in results]
        assert all(array == [10 * value for value in values] for values, array in parts)
        lists = [values for values, _ in parts]
        if not padding:
            assert [len(each) for each in lists] == [len(each) for each in np.array_split(np.arange(length), count)]
            assert list(itertools.chain(*lists)) == list(range(length))
        elif length:
            assert {len(each) for each in lists} == {-(-length // count)}
            assert sorted(set(itertools.chain(*lists))) == list(range(length))


@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_99_padded_examples_give_99_in_order(launch: Any, order: str) -> None:
    _, results = launch
    seeded = None if order == "in order" else (0, 0)
    batches = EpochOrder(99, 20, 20, order=seeded, drop_last=False).batches()
    rows = np.concatenate([batch.rows[: batch.real] for batch in batches])
    assert len(rows) == 99
    for each in results:
        assert each["metrics"][order] == rows.tolist()
        assert each["metrics"][f"{order}, from the host"] == rows.tolist()
        assert each["metrics"][f"{order}, values"] == np.sqrt(rows.astype(np.float64)).tolist()
        assert each["metrics"]["rows"].startswith("DataError: value must have one row per example of the batch, got")


def test_images_changed_on_the_devices_of_all_are_those_that_one_host_makes(launch: Any) -> None:
    _, results = launch
    placement = Placement(part=0, parts=1, data_size=4, float_dtype="float64", put=lambda batch: batch)
    loader = Loader(scenarios.images(), LoaderSpec(**scenarios.AUGMENTED), placement)
    expected = [
        scenarios.digest({name: batch[name] for name in ("image", "mix")}) for _ in range(2) for batch in loader
    ]
    assert len(expected) == 6
    for each in results:
        assert each["augmented"] == each["augmented, resident"] == expected


def said(name: str, others: str, last: str, results: Results, kind: str = "mismatches") -> None:
    """Every process raised the same error, which says what the others and what the last process did."""
    count = len(results)
    everyone = "process 0" if count == 2 else f"processes {', '.join(map(str, range(count - 1)))}"
    for each in results:
        assert f"got {everyone}: {others} (" in each[kind][name], each[kind][name]
        assert f"; process {count - 1}: {last} (" in each[kind][name], each[kind][name]
        assert each[kind][name].startswith("CollectiveError: ")


@pytest.mark.parametrize(
    ("name", "others", "last"),
    [
        ("shapes", "gather of logits: (3, 4) float32", "gather of logits: (3, 5) float32"),
        ("large", "reduce(sum) of value: (1000000,) float64", "reduce(sum) of value: (999999,) float64"),
        ("types", "reduce(sum) of value: (3,) int32", "reduce(sum) of value: (3,) float32"),
        ("trees", "gather of b: () int64", "gather of a: () int64"),
        ("operations", "gather", "reduce(sum)"),
        ("reductions", "reduce(min)", "reduce(max)"),
        ("barrier", "gather_object", "wait_for_everyone"),
        ("predictions", "a step", "a step of weight: (4,) float64"),
        (
            "other dimensions",
            "pad_across_processes(dim=0) of value: (*, 3) float64",
            "pad_across_processes(dim=0) of value: (*, 4) float64",
        ),
        (
            "a bad leaf",
            "gather of value: () int64",
            "gather of value: refused, DataError: value must be an array or a number, got str. "
            "Use gather_object for other values.",
        ),
    ],
)
def test_processes_that_disagree_all_say_who_did_what(launch: Any, name: str, others: str, last: str) -> None:
    said(name, others, last, launch[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad leaves", "DataError: name must be an array or a number, got str."),
        ("padding", "DataError: pad_value must fit into value, got pad_value=-1 for uint8."),
        ("no such process", "ConfigError: from_process must be in [0, {count}), got from_process=9."),
        ("no such reduction", "ConfigError: reduction must be one of sum, mean, max, min, got reduction='median'."),
    ],
)
def test_what_is_wrong_on_all_processes_is_refused_by_all(launch: Any, name: str, message: str) -> None:
    _, results = launch
    for each in results:
        assert each["mismatches"][name].startswith(message.format(count=len(results)))


def test_debug_checks_steps_before_any_device_is_touched(launch: Any) -> None:
    backend, results = launch
    size, integer = (4, "int32") if backend == "jax" else (len(results), "int64")

    def step(rows: int) -> str:
        return f"a step of x: ({rows}, 4) float32, y: ({rows},) {integer}"

    empty = "a step of value: refused, DataError: a batch must be a dict of arrays, got an empty one."
    said("batches", step(size), step(2 * size), results, "debug")
    said("a step and a gather", step(size), "gather of value: () int64", results, "debug")
    said("a bad batch", step(size), empty, results, "debug")
    for each in results:
        assert each["debug"]["loss"] == "True at step 1"


def test_processes_set_up_differently_are_refused(launch: Any) -> None:
    _, results = launch
    seeds = [f"seed=3 on process {index}" for index in range(len(results) - 1)]
    message = f"ConfigError: seed must be the same on every process, got {', '.join(seeds)}, seed=7 on process"
    for each in results:
        assert each["debug"]["seeds"].startswith(message)


def test_all_processes_go_on_with_a_batch_that_fits_all(launch: Any) -> None:
    """Also those that wait for the one without memory; an error of another kind ends the search on all of them."""
    _, results = launch
    for index, each in enumerate(results):
        found = each["batch sizes"]
        assert found["go on"] == found["wait"] == [2, 4]
        assert found["sizes"] == [8, 4, 2, 8, 4, 2, 8]
        assert ("KeyError" if index == 0 else "CollectiveError: every process must finish an attempt") in found["fail"]
        assert ("'a bug'" if index == 0 else "process 0 raised") in found["fail"]
        assert found["odd"].startswith("ConfigError: starting_batch_size must be a multiple of the mesh's batch axes")


def test_rows_given_by_hand_are_those_of_the_process_in_whatever_arrays(launch: Any) -> None:
    backend, results = launch
    alone = scenarios.by_hand(ct.Accelerator(backend, precision="fp64", platform="cpu"), native=False)
    for each in results:
        for found in each["by hand"]:
            np.testing.assert_allclose(found, alone, rtol=1e-12)


def test_statistics_are_of_the_examples_of_all_processes(launch: Any) -> None:
    backend, results = launch
    alone = scenarios.statistics(ct.Accelerator(backend, precision="fp64", platform="cpu"))
    for each in results:
        assert each["statistics"].keys() == alone.keys()
        for name, values in alone.items():
            np.testing.assert_allclose(each["statistics"][name], values, rtol=1e-12, atol=1e-15)


def test_arrays_that_span_processes(launch: Any) -> None:
    backend, results = launch
    if backend == "torch":
        pytest.skip("no torch array spans processes")
    for each in results:
        found = each["spanning"]
        assert found["whole"] == np.arange(40.0).reshape(20, 2).tolist()
        assert found["own"] == [0, 1]
        assert found["total"] == [780.0, [780.0]]
        assert found["refused"].startswith(
            "DataError: x must be a value of each process, or whole on all of them, got an array of shape (20, 2)"
        )
        assert found["beside own rows"].startswith(
            "DataError: all fields of a batch must be this process's rows, or all"
        )
        assert "got x of all processes beside y." in found["beside own rows"]


def test_processes_are_counted_by_machine() -> None:
    machines = ["a", "b", "a", "b", "b", "c"]
    assert [local_index(machines, index) for index in range(6)] == [0, 0, 1, 1, 2, 0]


def test_many_differing_leaves_and_places_are_shortened() -> None:
    calls = [Call("gather", tuple((f"leaf{i}", f"({i + odd},) float32") for i in range(12))) for odd in (0, 0, 1)]
    message = disagreement(calls, ["a.py:1", "a.py:1", "b.py:2"])
    assert "processes 0, 1: gather of leaf0: (0,) float32" in message
    assert message.count(" and 4 more (") == 2
    assert "; process 2: " in message
