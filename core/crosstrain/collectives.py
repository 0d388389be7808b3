"""`Collectives`: what processes of a run give each other outside the compiled step, with one meaning on both engines.

Every method is called by all processes, in the same order. An engine gives one primitive, the exchange of bytes;
trees, types, reductions and padding are said here. Results are NumPy arrays, equal to the bit on every process.
"""

import abc
import functools
import numbers
import pickle
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np

from crosstrain import trees
from crosstrain.abstract import abstractmethod
from crosstrain.data.placement import WEIGHT
from crosstrain.errors import ConfigError, DataError
from crosstrain.exchange import Call, messages, slabs
from crosstrain.folding import Join, as_it_was, end_to_end, fold, has_dimension, pad, require_fits, words
from crosstrain.objective import drop_padding

Reduction = Literal["sum", "mean", "max", "min"]
Extent = Literal["process", "replicated", "sharded"]
"""A native array is this process's own, or one array of all processes: whole on each of them, or split over them."""

_Rows = np.ndarray  # shape (process_count, m): the values of every process


class Collectives(abc.ABC):
    """Exchange between processes.

    Trees are dicts, lists, tuples and named tuples of NumPy arrays, numbers and native arrays.

    Processes that make different calls, or give other shapes or types, all get a `CollectiveError` that says which
    process did what. Nothing is exchanged with a process that makes no call at all: that one is waited for.
    """

    process_index: int
    process_count: int
    _array_type: type
    _part_owners: list[int]  # for each set of parts of a batch, in their order, the first process that loads them
    _part_order: np.ndarray  # where each part of a batch stands in what these processes load

    def gather(self, tree: Any) -> Any:
        """The rows of all processes, in their order, as NumPy arrays on every process.

        Args:
            tree: leaves of shape (n, ...), equal on all processes, become (process_count * n, ...); scalars become
                (process_count,). A JAX array that spans processes is one array already, and is given whole.

        Raises:
            CollectiveError: shapes or types that differ between processes.
            DataError: a leaf that is no array of numbers.
        """
        return self._combine("gather", tree, lambda rows: rows, end_to_end, whole=("replicated", "sharded"))

    def gather_for_metrics(self, tree: Any, batch: Mapping[str, Any]) -> Any:
        """`gather` of values per example, without the examples that pad the last batch: 99 of 100 padded ones.

        Examples that several processes have, such as those of one `tensor` group, are given once.

        Args:
            tree: leaves with one row for each of this process's examples (or, on JAX, of the global batch).
            batch: the batch of the loader that the values belong to. Examples of weight 0 are left out, as in
                `predict_step`.

        Raises:
            CollectiveError: as `gather`.
            DataError: as `gather`, or a leaf that has another number of rows than the batch.
        """
        if WEIGHT not in batch:
            return self._gather_parts(tree)
        values, weights = self._gather_parts((tree, batch[WEIGHT]))
        found = trees.leaves(values)
        for path, rows in found:
            if len(rows) != len(weights):
                raise DataError(
                    f"{path} must have one row per example of the batch, got {len(rows)} rows over all processes for "
                    f"{len(weights)} examples. Give values per example that were not gathered before."
                )
        kept = (drop_padding({path: rows, WEIGHT: weights}, WEIGHT)[path] for path, rows in found)
        return trees.rebuild(values, kept)

    def _gather_parts(self, tree: Any) -> Any:
        first, order = self._part_owners, self._part_order

        def in_order(received: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
            rows = end_to_end(received, shape)
            if len(rows) % len(order):
                return rows
            parts = rows.reshape(len(order), len(rows) // len(order), *rows.shape[1:])
            return parts[order].reshape(rows.shape)

        return self._combine("gather", tree, lambda rows: rows[first], in_order, whole=("replicated", "sharded"))

    def reduce(self, tree: Any, reduction: Reduction = "sum") -> Any:
        """Elementwise over the processes. Floats are added in float64 in the order of the processes and rounded once.

        Args:
            tree: leaves of one shape on all processes. Sums of integers and booleans are 64-bit integers, their means
                float64; all else keeps its type. A JAX array that is whole on every process is one value: itself.
            reduction: `sum`, `mean`, `max` or `min`.

        Raises:
            CollectiveError: shapes or types that differ between processes.
            ConfigError: another reduction.
            DataError: a leaf that is no array of numbers, or that is split over processes.
        """
        if reduction not in get_args(Reduction):
            raise ConfigError(
                f"reduction must be one of {', '.join(get_args(Reduction))}, got reduction={reduction!r}."
            )
        return self._combine(f"reduce({reduction})", tree, functools.partial(fold, reduction))

    def broadcast(self, tree: Any, from_process: int = 0) -> Any:
        """The values of one process, on all of them.

        Args:
            tree: leaves of the same shape and type on every process; only those of `from_process` are read.
            from_process: whose values.

        Raises:
            CollectiveError: shapes or types that differ between processes.
            ConfigError: no such process.
            DataError: as `reduce`.
        """
        self._require_process("from_process", from_process)
        return self._combine(f"broadcast(from_process={from_process})", tree, lambda rows: rows[from_process])

    def pad_across_processes(self, tree: Any, dim: int = 0, pad_value: float = 0, pad_first: bool = False) -> Any:
        """Pads one dimension to its largest size on any process, so that `gather` can follow.

        Args:
            tree: leaves whose other dimensions agree; those that lack `dim` stay as they are.
            dim: the dimension; counted from the end when negative.
            pad_value: what is filled in; the leaf's type must hold it.
            pad_first: before the values instead of after them.

        Raises:
            CollectiveError: other dimensions or types differ between processes.
            DataError: as `reduce`, or a `pad_value` that an integer type cannot hold.
        """
        operation = f"pad_across_processes(dim={dim})"
        values = self._guard(operation, lambda: [(path, self._local(path, leaf)) for path, leaf in trees.leaves(tree)])
        self._guard(operation, lambda: require_fits(pad_value, values))
        parts = tuple((path, words(each, open_dim=dim)) for path, each in values)
        sizes = [each.shape[dim] if has_dimension(each, dim) else 0 for _, each in values]
        largest = np.max(self._objects(Call(operation, parts), sizes), axis=0) if sizes else sizes
        padded = (
            pad(each, dim, int(size), pad_value, pad_first) for (_, each), size in zip(values, largest, strict=True)
        )
        return trees.rebuild(tree, padded)

    def gather_object(self, value: Any) -> list[Any]:
        """What each process gave, in their order. Objects are pickled between the processes of this run.

        Raises:
            CollectiveError: a process makes another call.
        """
        return self._objects(Call("gather_object"), value)

    def broadcast_object(self, value: Any, from_process: int = 0) -> Any:
        """What `from_process` gave; the others' values are not sent.

        Raises:
            CollectiveError: a process makes another call.
            ConfigError: no such process.
        """
        self._require_process("from_process", from_process)
        mine = value if self.process_index == from_process else None
        return self._objects(Call(f"broadcast_object(from_process={from_process})"), mine)[from_process]

    # What an engine gives.

    @abstractmethod
    def _all_gather(self, values: np.ndarray) -> np.ndarray:
        """uint8 of shape (n,), the same n on every process, to (process_count, n); only for several processes."""
        raise NotImplementedError

    @abstractmethod
    def _read(self, values: Any) -> np.ndarray:
        """A native array on the host, bfloat16 as float32; whole, from all processes, where it is split over them."""
        raise NotImplementedError

    def _extent(self, values: Any) -> Extent:
        """How far a native array reaches; only JAX has arrays that span processes."""
        return "process"

    def _is_placed(self, values: Any) -> bool:
        """Whether a field of a batch is on the devices as steps take it."""
        return isinstance(values, self._array_type)

    # Shared by all of them.

    def _rows(self, values: np.ndarray) -> _Rows:
        return values[np.newaxis] if self.process_count == 1 else self._all_gather(values)

    def _combine(
        self,
        operation: str,
        tree: Any,
        combine: Callable[[_Rows], np.ndarray],
        join: Join = as_it_was,
        *,
        whole: tuple[Extent, ...] = ("replicated",),
    ) -> Any:
        """Exchanges the leaves; arrays whose extent is in `whole` are one value already, and are only read."""
        found = trees.leaves(tree)
        spanning = {i: leaf for i, (_, leaf) in enumerate(found) if self._reach(leaf) in whole}
        values = self._guard(
            operation, lambda: {i: self._local(*leaf) for i, leaf in enumerate(found) if i not in spanning}
        )
        parts = tuple(
            (path, words(values[i]) if i in values else f"{words(leaf)} over all processes")
            for i, (path, leaf) in enumerate(found)
        )
        received = self._exchange(Call(operation, parts), values, combine)
        results = {i: join(received[i], values[i].shape) for i in values}
        for i, leaf in spanning.items():
            # Read after the exchange has shown that every process does the same: reading may need all of them.
            read = self._read(leaf)
            results[i] = read if join is as_it_was else np.atleast_1d(read)
        return trees.rebuild(tree, (results[i] for i in range(len(found))))

    def _exchange(
        self, call: Call, values: Mapping[int, np.ndarray], combine: Callable[[_Rows], np.ndarray]
    ) -> dict[int, np.ndarray]:
        results: dict[int, np.ndarray] = {}
        for dtype in dict.fromkeys(each.dtype for each in values.values()) or (np.dtype(np.uint8),):
            group = {i: each.ravel() for i, each in values.items() if each.dtype == dtype}
            data = np.concatenate([np.zeros(0, dtype), *group.values()]).view(np.uint8)
            received = slabs(self._rows, call, data)
            combined = [combine(np.ascontiguousarray(rows).view(dtype)) for rows in received]
            ends = np.cumsum([each.size for each in group.values()])[:-1]
            results |= zip(group, np.split(np.concatenate(combined, axis=-1), ends, axis=-1), strict=False)
        return results

    def _objects(self, call: Call, value: Any) -> list[Any]:
        data = self._guard(call.operation, lambda: np.frombuffer(pickle.dumps(value), np.uint8))
        return [pickle.loads(each) for each in messages(self._rows, call, data)]

    def _agree(self, call: Call) -> None:
        """Returns once every process is in this call.

        Raises:
            CollectiveError: one is in another.
        """
        for _ in slabs(self._rows, call, np.zeros(0, np.uint8)):
            pass

    def _guard(self, operation: str, prepare: Callable[[], Any]) -> Any:
        """What `prepare` returns; what it raises, the other processes hear of instead of waiting for this one."""
        try:
            return prepare()
        except Exception as error:
            self._agree(Call(operation, (("value", f"refused, {type(error).__name__}: {error}"),)))
            raise

    def _reach(self, leaf: Any) -> Extent:
        return self._extent(leaf) if isinstance(leaf, self._array_type) else "process"

    def _local(self, path: str, leaf: Any) -> np.ndarray:
        native = isinstance(leaf, self._array_type)
        if self._reach(leaf) == "sharded":
            raise DataError(
                f"{path} must be a value of each process, or whole on all of them, got an array of shape {leaf.shape} "
                "that is split over processes. Reduce it inside jit, or gather it."
            )
        if not native and not isinstance(leaf, np.ndarray | np.generic | numbers.Number):
            raise DataError(
                f"{path} must be an array or a number, got {type(leaf).__name__}. Use gather_object for other values."
            )
        values = self._read(leaf) if native else np.asarray(leaf)
        if values.dtype.kind not in "biufc":
            raise DataError(f"{path} must be numbers, got {values.dtype}. Convert it, or use gather_object.")
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _own_rows(self, batch: Any) -> Any:
        """A batch given by hand with its native arrays on the host; what is no batch stays for others to refuse.

        Raises:
            DataError: arrays of all processes beside rows of this one.
        """
        if not isinstance(batch, Mapping):
            return batch
        spanning = [name for name, values in batch.items() if self._reach(values) != "process"]
        if spanning:
            raise DataError(
                f"all fields of a batch must be this process's rows, or all be arrays of all processes, got "
                f"{', '.join(spanning)} of all processes beside {', '.join(sorted(set(batch) - set(spanning)))}. "
                "Give to_device this process's rows of the others, and put the fields together."
            )
        return {n: self._read(each) if isinstance(each, self._array_type) else each for n, each in batch.items()}

    def _require_process(self, name: str, index: int) -> None:
        if type(index) is bool or not isinstance(index, int | np.integer) or not 0 <= index < self.process_count:
            raise ConfigError(f"{name} must be in [0, {self.process_count}), got {name}={index!r}.")
