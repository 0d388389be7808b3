"""What a compiled program exchanges between devices, read from its text: the compiler's choice, not ours.

`jax.stages.Compiled.as_text()` prints XLA's HLO after all passes: computations, each a list of instructions with their
types. Collectives inside a loop count as often as the loop runs. No twin: torch compiles no program for all devices.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from crosstrain.planning.traffic import Collective, Kind

_KINDS: dict[str, Kind] = {
    "all-gather": "all-gather",
    "all-reduce": "all-reduce",
    "reduce-scatter": "reduce-scatter",
    "all-to-all": "all-to-all",
    "ragged-all-to-all": "all-to-all",
    "collective-permute": "collective-permute",
    "collective-broadcast": "broadcast",
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?\s*\{([^}]*)\}")
_AXIS = re.compile(r"'([^']*)'(?::\((\d+)\)(\d+))?")
Groups = list[list[int]]


@dataclass(frozen=True, slots=True)
class _Instruction:
    type: str
    opcode: str
    operands: str
    attributes: str


@dataclass(slots=True)
class _Computation:
    instructions: dict[str, _Instruction] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchanges:
    """The collectives of a program.

    Attributes:
        collectives: one for each instruction.
        complete: whether every loop around them says how often it runs; where one does not, it counts once.
    """

    collectives: tuple[Collective, ...]
    complete: bool


def exchanges(text: str, mesh: Mapping[str, int]) -> Exchanges:
    """The collectives of one run of a compiled program, on one device.

    Args:
        text: of `jax.stages.Compiled.as_text()`.
        mesh: size of every axis of the mesh it was compiled for, in the order of its devices.
    """
    entry, computations = _read(text)
    total = math.prod(mesh.values())
    found: list[Collective] = []
    complete, chains = True, set[str]()
    for name, times, known in _runs(entry, computations):
        computation = computations[name]
        for instruction in computation.instructions.values():
            kind = _kind(instruction.opcode, name)
            chain = _chain(instruction.attributes)
            if kind is None or chain in chains:
                continue
            chains |= {chain} if chain else set()
            groups = _groups(instruction.attributes, total, kind)
            size = max((len(group) for group in groups), default=total)
            if size > 1:
                complete = complete and known
                given = sum(_bytes(computation.instructions[each].type) for each in _names(instruction.operands))
                axes = _axes(groups, mesh)
                found.append(
                    Collective(kind=kind, axes=axes, group_size=size, count=times, operand_bytes=times * given)
                )
    return Exchanges(collectives=tuple(found), complete=complete)


def _kind(opcode: str, computation: str) -> Kind | None:
    kind = _KINDS.get(opcode.removesuffix("-start"))
    # A TPU fuses the reduction with taking one's own part of it.
    return "reduce-scatter" if kind == "all-reduce" and "all-reduce-scatter" in computation else kind


def _chain(attributes: str) -> str | None:
    """A TPU hides a collective behind several products: each of them carries on with it, under its one channel."""
    channel = re.search(r"channel_id=(\d+)", attributes)
    return channel[1] if channel and "chain_id=" in attributes else None


def _read(text: str) -> tuple[str, dict[str, _Computation]]:
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = computations[header[2]] = _Computation()
            entry = header[2] if header[1] else entry
        elif line.startswith(" ") and " = " in line:
            name, _, rest = line.strip().removeprefix("ROOT ").partition(" = ")
            current.instructions[name.lstrip("%")] = _instruction(rest)
    return entry, computations


def _instruction(text: str) -> _Instruction:
    """From `type opcode(operands), attributes`; a tuple's type stands in brackets."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    return _Instruction(
        text[:end], text[end:opening].strip(), text[opening + 1 : closing], text[closing + 1 :].lstrip(", ")
    )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    return len(text)


def _runs(entry: str, computations: Mapping[str, _Computation]) -> Iterator[tuple[str, int, bool]]:
    """Every computation by each way that leads to it: name, times per run, whether that number is known."""
    waiting = [(entry, 1, True)]
    while waiting:
        name, times, known = waiting.pop()
        if name not in computations:
            continue
        yield name, times, known
        for instruction in computations[name].instructions.values():
            attributes = instruction.attributes
            if "=" not in attributes or instruction.opcode in _KINDS:
                continue
            called = _CALLED.findall(attributes)
            for branches in _BRANCHES.findall(attributes):
                called += _names(branches)
            trips = _TRIPS.search(attributes)
            loop = instruction.opcode == "while"
            more, certain = (int(trips[1]), known) if trips and loop else (1, known and not loop)
            waiting += [(each, times * more, certain) for each in called]


def _names(operands: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", operands)


def _bytes(shape: str) -> float:
    """Of an array, or of a tuple of them, as XLA prints its type."""
    return sum(_width(dtype) * math.prod(_numbers(sizes)) for dtype, sizes in _ARRAY.findall(shape))


def _width(dtype: str) -> float:
    """Bytes of an element: `f32`, `bf16`, `f8e4m3fn`, `s4`, `pred`."""
    bits = re.match(r"[a-z]+(\d+)", dtype)
    return int(bits[1]) / 8 if bits else float(dtype == "pred")


def _numbers(text: str) -> list[int]:
    return [int(each) for each in text.split(",") if each.strip()]


def _groups(attributes: str, total: int, kind: Kind) -> Groups:
    """Which devices exchange with each other, as positions in the mesh; XLA has three ways to write it."""
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", attributes)
        return _cycles([_numbers(each) for each in re.findall(r"\{([\d,]+)", "{" + pairs[1])]) if pairs else []
    _, _, text = attributes.partition("replica_groups=")
    if iota := _IOTA.match(text):
        return _transposed(iota[2], iota[3]).reshape(_numbers(iota[1])).tolist()
    if named := _NAMED.match(text):
        return _along(named[1], _transposed(named[2], named[3]) if named[2] else np.arange(total), named[4])
    listed = re.match(r"\{((?:\{[\d,]*\},?)*)\}", text)
    found = [_numbers(each) for each in re.findall(r"\{([\d,]+)\}", listed[1])] if listed else []
    return found or [list(range(total))]


def _transposed(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return ids.transpose(_numbers(order)) if order else ids


def _along(mesh: str, ids: np.ndarray, axes: str) -> Groups:
    """Groups along axes, or parts of axes, of a mesh that XLA names itself: `'a':(2)4` is 4 of a after 2 parts."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh)}
    chosen = _AXIS.findall(axes)
    shape: list[int] = []
    places: list[int] = []
    for name, size in sizes.items():
        parts = [(int(before or 1), int(part or size)) for each, before, part in chosen if each == name]
        done = 1
        for before, part in sorted(parts):
            shape += [before // done, part]
            places.append(len(shape) - 1)
            done = before * part
        shape.append(size // done)
    others = [place for place in range(len(shape)) if place not in places]
    width = math.prod(shape[place] for place in places)
    return ids.reshape(shape).transpose([*others, *places]).reshape(-1, width).tolist()


def _cycles(pairs: Groups) -> Groups:
    """Devices that a permutation connects."""
    group: dict[int, set[int]] = {}
    for source, target in pairs:
        both = group.get(source, {source}) | group.get(target, {target})
        group |= dict.fromkeys(both, both)
    return [sorted(each) for each in {id(each): each for each in group.values()}.values()]


def _axes(groups: Groups, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Mesh axes that the devices of the groups span; none where that is not what they do."""
    places = [np.array(np.unravel_index(group, tuple(mesh.values()))) for group in groups]
    varies = [tuple(bool((each != each[:1]).any()) for each in place) for place in places]
    if not varies or len(set(varies)) > 1:
        return ()
    axes = tuple(axis for axis, moves in zip(mesh, varies[0], strict=True) if moves)
    return axes if math.prod(mesh[axis] for axis in axes) == len(groups[0]) else ()
