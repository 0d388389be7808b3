"""Sources that come from other libraries: torch DataLoaders with and without workers, and HF datasets."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from crosstrain import DataError
from crosstrain.data.loader import Loader, LoaderSpec, Placement
from crosstrain.data.sources import Source
from crosstrain.random import permutation

COUNT = 23


def loader_of(source: Any, *, process: int = 0, processes: int = 1, **options: Any) -> Loader:
    placement = Placement(part=process, parts=processes, data_size=processes, float_dtype="float32", put=lambda b: b)
    return Loader(source, LoaderSpec(**{"batch_size": None, "seed": 5, **options}), placement)


def rows(loader: Loader, field: str = "x") -> list[int]:
    """The examples that count, in order."""
    return [
        int(value)
        for batch in loader
        for value, weight in zip(batch[field], batch.get("weight", np.ones(len(batch[field]))), strict=True)
        if weight
    ]


class Pairs(Dataset):
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor(float(index)), index % 3


# Workers are forked; where another test has loaded JAX into this process, JAX warns that its threads do not come along.
@pytest.mark.filterwarnings("ignore:.*fork.*")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_keeps_its_batches_and_workers(workers: int) -> None:
    loader = loader_of(DataLoader(Pairs(), batch_size=4, num_workers=workers))
    assert (loader.batch_size, len(loader)) == (4, 6)
    batches = list(loader)
    assert rows(loader_of(DataLoader(Pairs(), batch_size=4, num_workers=workers))) == list(range(COUNT))
    assert batches[0].keys() == {"x", "y", "weight"}
    assert batches[0]["x"].dtype == np.float32
    assert batches[-1]["weight"].tolist() == [1, 1, 1, 0]


def test_a_shuffled_dataloader_follows_crosstrains_order() -> None:
    loader = loader_of(DataLoader(Pairs(), batch_size=4, shuffle=True))
    assert rows(loader) == permutation(5, 0, COUNT).tolist()
    assert rows(loader) == permutation(5, 1, COUNT).tolist()


def test_two_processes_take_their_parts_of_one_order() -> None:
    parts = [list(loader_of(DataLoader(Pairs(), batch_size=4), process=i, processes=2)) for i in range(2)]
    together = [np.concatenate([a["x"], b["x"]]).tolist() for a, b in zip(*parts, strict=True)]
    assert together[0] == [0, 1, 2, 3]
    assert sum(float(batch["weight"].sum()) for part in parts for batch in part) == COUNT


def test_drop_last_and_collation_are_kept() -> None:
    def collate(examples: list[Any]) -> dict[str, torch.Tensor]:
        return {"x": torch.stack([x for x, _ in examples]) * 10}

    loader = loader_of(DataLoader(Pairs(), batch_size=4, drop_last=True, collate_fn=collate))
    assert rows(loader) == [10 * i for i in range(20)]


def test_memory_that_is_used_for_every_batch_is_no_trap() -> None:
    memory = torch.zeros(4)

    def collate(examples: list[Any]) -> dict[str, torch.Tensor]:
        return {"x": torch.stack([x for x, _ in examples], out=memory)}

    class Squares(Source):
        memory = np.zeros(4, np.float32)

        def __len__(self) -> int:
            return 20

        def gather(self, rows: np.ndarray) -> dict[str, np.ndarray]:
            return {"x": np.square(rows, out=self.memory, casting="unsafe")}

    collated = loader_of(DataLoader(Pairs(), batch_size=4, drop_last=True, collate_fn=collate))
    squares = loader_of(Squares(), batch_size=4)
    for loader, expected in ((collated, np.arange(20)), (squares, np.arange(20) ** 2)):
        np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in list(loader)]), expected)


def test_a_custom_sampler_is_refused() -> None:
    sampler = WeightedRandomSampler([1.0] * COUNT, COUNT)
    with pytest.raises(DataError, match="plain sequential or random sampler, got WeightedRandomSampler"):
        loader_of(DataLoader(Pairs(), batch_size=4, sampler=sampler))


@pytest.mark.parametrize(
    "sampler",
    [
        RandomSampler(range(COUNT), replacement=True),
        RandomSampler(range(COUNT), num_samples=7),
        SequentialSampler(range(7)),
    ],
    ids=["replacement", "fewer", "part"],
)
def test_a_sampler_that_is_not_one_pass_over_the_data_is_refused(sampler: Any) -> None:
    with pytest.raises(DataError, match=rf"got a sampler of {len(sampler)} examples over a data set of {COUNT}"):
        loader_of(DataLoader(Pairs(), batch_size=4, sampler=sampler))


def test_a_dataloader_over_a_stream_is_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(range(3))

    with pytest.raises(DataError, match="map-style data set, got an iterable one"):
        loader_of(DataLoader(Stream(), batch_size=2))


def test_a_torch_data_set_is_a_map_style_source() -> None:
    data = TensorDataset(torch.arange(7.0), torch.arange(7))
    assert rows(loader_of(data, batch_size=3), "y") == list(range(7))


@pytest.mark.parametrize("formatted", [None, "numpy", "torch"])
def test_an_hf_dataset_gives_batches_of_columns(formatted: str | None) -> None:
    columns = {"image": np.random.default_rng(0).normal(size=(COUNT, 2, 2)).tolist(), "label": list(range(COUNT))}
    dataset = datasets.Dataset.from_dict(columns)
    dataset = dataset.with_format(formatted) if formatted else dataset
    loader = loader_of(dataset, batch_size=4, shuffle=True)
    batch = next(iter(loader))
    assert batch["image"].shape == (4, 2, 2)
    assert batch["image"].dtype == np.float32
    assert rows(loader_of(dataset, batch_size=4, shuffle=True), "label") == permutation(5, 0, COUNT).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_transform_of_an_hf_dataset_is_kept(workers: int) -> None:
    def double(columns: dict[str, Any]) -> dict[str, Any]:
        return {"x": [torch.tensor(2 * value) for value in columns["x"]], "y": torch.ones(len(columns["x"]), 2)}

    dataset = datasets.Dataset.from_dict({"x": list(range(COUNT)), "text": ["a"] * COUNT}).with_transform(double)
    loader = loader_of(dataset, batch_size=4, shuffle=True, workers=workers)
    assert rows(loader) == (2 * permutation(5, 0, COUNT)).tolist()
    assert next(iter(loader))["y"].shape == (4, 2)


@pytest.mark.parametrize(("given", "message"), [({"x": [1]}, r"each of the 4 rows, got {'x': 1}"), ([1], "got list")])
def test_a_transform_of_an_hf_dataset_that_gives_other_rows_is_refused(given: Any, message: str) -> None:
    dataset = datasets.Dataset.from_dict({"x": list(range(COUNT))}).with_transform(lambda columns: given)
    with pytest.raises(DataError, match=message):
        list(loader_of(dataset, batch_size=4))


def test_the_columns_that_an_hf_dataset_is_formatted_to_are_kept() -> None:
    dataset = datasets.Dataset.from_dict({"x": list(range(COUNT)), "text": ["a"] * COUNT})
    loader = loader_of(dataset.with_format("torch", columns=["x"]), batch_size=4)
    assert rows(loader) == list(range(COUNT))
    with pytest.raises(DataError, match="field 'text' must be numbers"):
        list(loader_of(dataset.with_format("torch", columns=["x"], output_all_columns=True), batch_size=4))


def test_an_hf_stream_is_an_iterable_source() -> None:
    stream = datasets.Dataset.from_dict({"label": list(range(5))}).to_iterable_dataset()
    loader = loader_of(stream, batch_size=2)
    assert rows(loader, "label") == rows(loader, "label") == list(range(5))
