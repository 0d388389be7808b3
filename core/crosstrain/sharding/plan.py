"""`ShardingPlan`: which mesh axis splits which dimension of each parameter. Plain data, the same on both engines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamPlan:
    """One parameter.

    Attributes:
        shape: in the canonical layout.
        logical: the meaning of each dimension; None where nobody said.
        axes: the mesh axes that split each dimension, the outermost first; empty for a dimension that stays whole.
        stage: the part of a pipeline that alone holds it, from 0; None where every stage does. A gradient of what
            every stage holds is the sum over the stages, so that a weight may be used at both ends.
    """

    shape: tuple[int, ...]
    logical: tuple[str | None, ...] | None
    axes: tuple[tuple[str, ...], ...]
    stage: int | None = None

    def dimension(self, axis: str) -> int | None:
        """The dimension that a mesh axis splits; None when it splits none."""
        return next((index for index, axes in enumerate(self.axes) if axis in axes), None)

    def local_shape(self, mesh: Mapping[str, int]) -> tuple[int, ...]:
        """The shape that one device holds, where it holds any of it."""
        return tuple(
            size // math.prod(mesh[axis] for axis in axes) for size, axes in zip(self.shape, self.axes, strict=True)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardingPlan:
    """The parameters of one model on one mesh. Optimizer moments and averages lie as their parameters do.

    Attributes:
        mesh: size of every mesh axis, in devices.
        params: canonical name -> its plan, in the model's order.
    """

    mesh: Mapping[str, int]
    params: Mapping[str, ParamPlan]

    @property
    def is_trivial(self) -> bool:
        """Whether every device holds every parameter whole."""
        return not any(any(param.axes) or param.stage is not None for param in self.params.values())

    @property
    def size(self) -> int:
        """Elements of all parameters."""
        return sum(math.prod(param.shape) for param in self.params.values())

    @property
    def local_size(self) -> int:
        """Elements of all parameters on one device. Every stage has equal blocks, so that the first stands for all."""
        return sum(math.prod(param.local_shape(self.mesh)) for param in self.of_stage(0).values())

    def of_stage(self, stage: int) -> dict[str, ParamPlan]:
        """The parameters that the devices of one stage hold: its own, and those of every stage."""
        return {name: param for name, param in self.params.items() if param.stage in (None, stage)}

    def table(self, *, bytes_per_element: float = 4, copies: int = 1) -> str:
        """The plan as text: a line per group of equal parameters, and the bytes of one device.

        Args:
            bytes_per_element: of a parameter.
            copies: arrays of a parameter's size that a device holds: 1 for weights alone, 4 for weights, gradients
                and both moments of Adam.
        """
        each = bytes_per_element * copies
        rows = [("parameter", "shape", "axes", "placement", "bytes per device")]
        for names, param in _grouped(self.params):
            stages = 1 if param.stage is None else self.mesh["pipeline"]
            local = len(names) // stages * math.prod(param.local_shape(self.mesh)) * each
            where = _placement(param) + (f"; {len(names) // stages} on each stage" if stages > 1 else "")
            rows.append((_label(names), _product(param.shape), _meaning(param), where, _bytes(local)))
        rows.append(("total", "", "", "", _bytes(self.local_size * each)))
        rows.append(("of", "", "", "", _bytes(self.size * each)))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        aligned = (
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )
        used = ", ".join(f"{axis}={size}" for axis, size in self.mesh.items() if size > 1) or "one device"
        return f"mesh: {used}\n" + "\n".join(aligned)


def _grouped(params: Mapping[str, ParamPlan]) -> list[tuple[list[str], ParamPlan]]:
    """Parameters whose names differ in numbers only, and whose plan is the same but for the stage."""
    groups: dict[tuple[str, ParamPlan], list[str]] = {}
    for name, param in params.items():
        pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
        alike = param if param.stage is None else replace(param, stage=0)
        groups.setdefault((pattern, alike), []).append(name)
    return [(names, param) for (_, param), names in groups.items()]


def _label(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    pattern = ".".join("*" if part.isdigit() else part for part in names[0].split("."))
    return f"{pattern} ({len(names)})"


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _meaning(param: ParamPlan) -> str:
    return ", ".join(name or "-" for name in param.logical) if param.logical is not None else "automatic"


def _placement(param: ParamPlan) -> str:
    if not any(param.axes):
        return "whole"
    return ", ".join("+".join(axes) or "-" for axes in param.axes)


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError
