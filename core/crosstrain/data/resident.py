"""`Resident`: examples that stay on the devices. What goes there for a batch is which of them it holds."""

from collections.abc import Collection
from typing import Any

import numpy as np

from crosstrain.data.sources import Arrays, ArraySource, Source
from crosstrain.errors import DataError


class Resident(Source):
    """Arrays whose fields of more than one dimension are on the devices too; see `Accelerator.resident`.

    Attributes:
        owner: the accelerator whose devices they are on.
        held: name -> device array of shape (N, ...).
    """

    def __init__(self, source: ArraySource, owner: object, held: dict[str, Any]) -> None:
        self._source, self.owner, self.held = source, owner, held

    def __len__(self) -> int:
        return len(self._source)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`; from the host's copy."""
        return self._source.gather(rows)

    def fields(self) -> Arrays:
        """The host's copy."""
        return self._source.fields()


class Rows(Source):
    """What a loader copies of a resident source: in the place of fields that are there, which rows they are.

    Args:
        source: whose rows.
        names: of the fields that are taken from the devices.
    """

    def __init__(self, source: Resident, names: Collection[str]) -> None:
        self._source, self._names = source, frozenset(names)
        self._others = {name: values for name, values in source.fields().items() if name not in self._names}

    def __len__(self) -> int:
        return len(self._source)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`; rows are int32, shape (B,)."""
        others = {name: values[rows] for name, values in self._others.items()}
        return others | dict.fromkeys(self._names, rows.astype(np.int32))

    def fields(self) -> Arrays:
        """Those of the source, to be checked once."""
        return self._source.fields()


def as_arrays(source: Any) -> ArraySource:
    """The source of a dict of arrays, each contiguous.

    Raises:
        DataError: anything else.
    """
    fields = source.fields() if isinstance(source, Source) else source
    if not isinstance(fields, dict):
        raise DataError(
            f"a resident source must be a dict of arrays, got {type(source).__name__}. Read it into arrays, or give it "
            "to the loader as it is."
        )
    return ArraySource({name: np.ascontiguousarray(values) for name, values in fields.items()})
