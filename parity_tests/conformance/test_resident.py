"""Sources that stay on the devices give the batches of those that do not."""

from typing import Any

import numpy as np
import pytest

import crosstrain as ct
from parity_tests.conformance.test_device_transforms import CHAINS, COUNT, SOURCE, epochs, loader_of, same

FIELDS = {
    **SOURCE,
    "tokens": np.arange(COUNT * 5).reshape(COUNT, 5),
    "wide": np.linspace(-1, 1, COUNT * 2).reshape(COUNT, 2),
    "weight": np.arange(1.0, COUNT + 1),
}


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_batches_without_transforms(make: Any, precision: str) -> None:
    accelerator = make(precision=precision)
    plain, resident = (
        epochs(accelerator.loader(source, batch_size=8, shuffle=True))
        for source in (FIELDS, accelerator.resident(FIELDS))
    )
    same(resident, plain)
    assert {values.dtype.itemsize for values in resident[0].values()} >= {1, 8 if precision == "fp64" else 4}


def test_it_stays_as_it_was_when_the_arrays_change(make: Any) -> None:
    accelerator = make(precision="fp32")
    given = {name: values.copy() for name, values in FIELDS.items()}
    source = accelerator.resident(given)
    before = epochs(accelerator.loader(source, batch_size=8))
    for values in given.values():
        values[:] = 1
    same(epochs(accelerator.loader(source, batch_size=8)), before)


def test_only_the_numbers_of_its_examples_are_copied_for_a_batch(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = make(precision="fp32")
    source = accelerator.resident(FIELDS)
    assert set(source.held) == {"image", "tokens", "wide"}
    assert all(isinstance(values, accelerator._array_type) for values in source.held.values())
    copied: list[dict[str, np.ndarray]] = []
    put = accelerator._put
    monkeypatch.setattr(accelerator, "_put", lambda batch: copied.append(batch) or put(batch))
    next(iter(loader_of(accelerator, CHAINS["cutmix"], "device", source=source, shuffle=False)))
    fields, drawn = copied[:2]
    np.testing.assert_array_equal(fields["image"], np.arange(8))
    assert drawn["2/partner"].shape == (8,), "and those of their partners"
    np.testing.assert_array_equal(fields["tokens"], FIELDS["tokens"][:8])


def test_loaders_share_it_resume_and_train(make: Any) -> None:
    accelerator = make(precision="fp32")
    source = accelerator.resident(SOURCE)
    whole = epochs(loader_of(accelerator, CHAINS["mixup"], "host"))
    first = loader_of(accelerator, CHAINS["mixup"], "device", source=source)
    batches = iter(first)
    next(batches)
    state = first.state_dict()
    batches.close()
    second = loader_of(accelerator, CHAINS["mixup"], "device", source=source)
    second.load_state_dict(state)
    same(epochs(second), whole[1:])
    (size,) = {len(batch["label"]) for batches in first.stacks(3) for batch in batches}
    assert size == 8


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([{"image": SOURCE["image"][0]}], "a resident source must be a dict of arrays, got list"),
        (iter(()), "must be a dict of arrays, got tuple_iterator"),
        (ct.data.token_windows(np.arange(40), 4), "must be a dict of arrays, got TokenSource"),
        ({"image": SOURCE["image"], "label": SOURCE["label"][1:]}, "the same number of examples"),
        ({"image": SOURCE["image"].astype(str)}, "must be numbers"),
        ({}, "must have at least one field"),
    ],
)
def test_sources_that_cannot_be(make: Any, source: Any, message: str) -> None:
    with pytest.raises(ct.DataError, match=message):
        make().resident(source)


def test_loaders_that_cannot_be(make: Any) -> None:
    accelerator = make()
    source = accelerator.resident(SOURCE)
    with pytest.raises(ct.DataError, match="transform_on must be 'device' for a source that is there"):
        accelerator.loader(source, batch_size=8, transform=ct.data.flip())
    with pytest.raises(ct.DataError, match="must be used by the accelerator that made it"):
        make().loader(source, batch_size=8)
    with pytest.raises(ct.DataError, match=r"label must be in \[0, 3\)"):
        accelerator.loader(source, batch_size=8, class_counts={"label": 3})
