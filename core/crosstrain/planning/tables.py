"""A report on the terminal: what a chip holds, computes and sends, and what that means for a step."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crosstrain.planning.report import Memory, Report
from crosstrain.planning.sweep import Outcome
from crosstrain.planning.traffic import together
from crosstrain.planning.units import binary, seconds


def report_table(report: Report) -> RenderableType:
    """Everything about one mesh."""
    measured, slices = report.measured, report.topology.slices
    described = report.topology.name if slices == 1 else f"{slices} slices of {report.topology.name}"
    parts: list[RenderableType] = [
        Text(f"{described}, {report.backend}: {report.mesh}; {measured.plan.size:,} parameters"),
        _memory(report),
    ]
    if not measured.refusal:
        parts += [_exchanges(report), _work(report)]
    if measured.compile_s:
        parts.append(Text(f"compiled in {measured.compile_s:.0f} s"))
    parts += [Text(f"note: {note}") for note in measured.notes]
    return Group(*parts)


def sweep_table(outcomes: Sequence[Outcome]) -> Table:
    """Several meshes, the best first."""
    table = Table(title="meshes, the best first", title_justify="left", header_style="bold")
    for column in ("mesh", "fits", "memory per chip", "sent per chip", "step, all overlapped", "nothing overlapped"):
        table.add_column(column, justify="left" if column == "mesh" else "right", overflow="fold")
    for outcome in outcomes:
        report = outcome.report
        if report is None:
            table.add_row(outcome.mesh, "no", outcome.refusal, "", "", "")
            continue
        memory, times = report.measured.memory, report.times
        table.add_row(
            outcome.mesh,
            {True: "yes", False: "no", None: "-"}[report.fits],
            binary(memory.total) if memory else "-",
            binary(report.sent_bytes) if not report.measured.refusal else "-",
            seconds(times.overlapped) if times else "-",
            seconds(times.serial) if times else "-",
        )
    return table


def _memory(report: Report) -> RenderableType:
    memory = report.measured.memory
    verdict = {True: "fits", False: "does not fit", None: "not held against a chip"}[report.fits]
    if memory is None:
        return Text(f"{verdict}: {report.measured.refusal}")
    table = Table(title="memory per chip", title_justify="left", header_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, count in _memory_rows(memory):
        table.add_row(name, binary(count))
    chip = report.topology.chip
    limit = memory.limit or (chip.hbm_bytes if chip else None)
    table.add_row("of", binary(limit) if limit else "-")
    return Group(table, Text(verdict, style="bold"))


def _memory_rows(memory: Memory) -> list[tuple[str, float]]:
    total = [("together", memory.total)]
    if memory.limit is not None:  # a compiler that gave up says only how much it needed
        return total
    return [
        ("weights, moments, batch", memory.state),
        ("outputs beside them", memory.outputs),
        ("activations, gradients, gathered weights", memory.temporaries),
        *total,
    ]


def _exchanges(report: Report) -> Table:
    table = Table(title="exchanges per step and chip", title_justify="left", header_style="bold")
    for column in ("kind", "axes", "chips in a group", "times", "sent"):
        table.add_column(column, justify="left" if column in ("kind", "axes") else "right")
    for each in together(report.measured.collectives):
        axes = " + ".join(each.axes) or "-"
        table.add_row(each.kind, axes, str(each.group_size), str(each.count), binary(each.sent_bytes))
    return table


def _work(report: Report) -> RenderableType:
    lines = [f"matrix products: {report.measured.flops:.3g} FLOPs per chip and step"]
    times, chip = report.times, report.topology.chip
    if times is not None and chip is not None:
        lines += [
            f"at the peaks of {chip.name}: compute {seconds(times.compute)}, memory {seconds(times.memory)}, "
            f"communication {seconds(times.communication)}",
            f"estimated step: {seconds(times.overlapped)} if all of it overlaps, {seconds(times.serial)} if "
            f"communication overlaps with nothing; at best {times.compute / times.overlapped:.0%} of the peak",
            f"assumed: {chip.flops_per_s / 1e12:.0f} TFLOP/s in bfloat16, {chip.hbm_bytes_per_s / 1e9:.0f} GB/s to "
            f"HBM, collectives one after the other, each over one ring of links with {chip.link_bytes_per_s / 1e9:.0f} "
            "GB/s each way; no latency, and every product at the peak",
        ]
    return Text("\n".join(lines))
