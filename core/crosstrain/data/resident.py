"""`Resident`: examples that stay on the devices. What goes there for a batch is which of them it holds."""

from collections.abc import Collection
from typing import Any

import numpy as np

from crosstrain.data.sources import Arrays, ArraySource, Source
from crosstrain.errors import DataError


class Resident(ArraySource):
    """Arrays of the host whose fields of more than one dimension are on the devices too; see `Accelerator.resident`.

    Attributes:
        owner: the accelerator whose devices they are on.
        held: name -> device array of shape (N, ...).
    """

    def __init__(self, arrays: Arrays, owner: object, held: dict[str, Any]) -> None:
        super().__init__(arrays)
        self.owner, self.held = owner, held


class Rows(ArraySource):
    """What a loader copies of a resident source: in the place of fields that are there, which rows they are.

    Args:
        source: whose rows.
        names: of the fields that are taken from the devices.
    """

    def __init__(self, source: Resident, names: Collection[str]) -> None:
        super().__init__(source.fields())
        self._names = frozenset(names)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`; rows are int32, shape (B,)."""
        taken = rows.astype(np.int32)
        return {name: taken if name in self._names else values[rows] for name, values in self.fields().items()}


def as_arrays(source: Any) -> Arrays:
    """A dict of arrays, each a contiguous copy, since a device that is this machine's CPU may take the memory as it is.

    Raises:
        DataError: anything else.
    """
    fields = source.fields() if isinstance(source, Source) else source
    if not isinstance(fields, dict):
        raise DataError(
            f"a resident source must be a dict of arrays, got {type(source).__name__}. Read it into arrays, or give it "
            "to the loader as it is."
        )
    return ArraySource({name: np.array(values, order="C", ndmin=1) for name, values in fields.items()}).fields()
