"""What `crosstrain parity` finds out about a port: verdict, fixes, low precision, and what it could not have seen."""

from dataclasses import dataclass, replace

from crosstrain.errors import ConfigError
from crosstrain.parity.dropout import dropout_findings, without_native_dropout
from crosstrain.parity.envelope import LowPrecision, compare_low_precision_open
from crosstrain.parity.fixes import Fix, try_fixes
from crosstrain.parity.matching import Matching
from crosstrain.parity.port import Port
from crosstrain.parity.power import Planted, detection
from crosstrain.parity.randomness import own_randomness
from crosstrain.parity.side import Live, Side
from crosstrain.parity.verdict import Verdict, compare_open

LOW = ("fp32", "bf16")
LEFT_OUT = "float32, bfloat16 and planted bugs were left out: they say nothing while float64 finds a difference"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was found out about a port; what was not reached is empty.

    Attributes:
        matching: of the parameters.
        verdict: in float64; None where the models could not be matched, run or repeated.
        fixes: that were tried.
        fixed: the verdict with the fixes that help.
        low: float32 and bfloat16, where float64 finds the same algorithm.
        planted: bugs planted in the reference, and whether each precision saw them.
        notes: what was changed or left out, and why, in sentences.
    """

    matching: Matching
    verdict: Verdict | None = None
    fixes: tuple[Fix, ...] = ()
    fixed: Verdict | None = None
    low: tuple[LowPrecision, ...] = ()
    planted: tuple[Planted, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both are the same algorithm, and no resynchronised step in low precision says otherwise."""
        return self.verdict is not None and self.verdict.same_algorithm and not any(low.findings for low in self.low)


def examine(port: Port, *, free_steps: int = 100, low_precision: bool = True, seeds: int = 16) -> Report:
    """Compares both models of a port, as far as they can be.

    Args:
        port: the models and what they are trained with.
        free_steps: free-running steps in each precision.
        low_precision: also compare in float32 and bfloat16, and plant bugs, where float64 finds no difference.
        seeds: nudged runs per envelope.

    Raises:
        ConfigError: no steps, fewer than two seeds, or a hint that names no parameter, or one of another
            shape.
    """
    if free_steps < 1 or seeds < 2:
        raise ConfigError(
            f"free_steps must be at least 1 and seeds at least 2, got free_steps={free_steps} and seeds={seeds}."
        )
    torch, jax, matching = port.sides()
    report = Report(matching=matching, notes=_constants((torch, jax)))
    if not matching.complete:
        return report
    torch, jax, note, layers = without_native_dropout(torch, jax)
    report = replace(report, notes=(*report.notes, *((note,) if note else ())))
    lives, problems = _opened((torch, jax), "fp64")
    problems += [sentence for live in lives if not problems and (sentence := own_randomness(live))]
    if problems:
        return replace(report, notes=(*report.notes, *problems))
    start, dropout = lives[0].snapshot(), dropout_findings(lives[0], lives[1], layers)
    verdict = compare_open(*lives, total_steps=port.total_steps, free_steps=free_steps, start=start).also(dropout)
    report = replace(report, verdict=verdict)
    if not verdict.same_algorithm:
        fixes, fixed = try_fixes(torch, jax, verdict, total_steps=port.total_steps, free_steps=free_steps, kept=dropout)
        left_out = (LEFT_OUT,) if low_precision else ()
        return replace(report, fixes=tuple(fixes), fixed=fixed, notes=(*report.notes, *left_out))
    return _lower(report, (torch, jax), port.total_steps, free_steps, seeds) if low_precision else report


def _constants(sides: tuple[Side, Side]) -> tuple[str, ...]:
    """The sentence that names the buffers that each side keeps for itself, where there are any."""
    names = [f"{', '.join(sorted(side.constants))} ({side.backend})" for side in sides if side.constants]
    what = "buffers that no training step changes are constants of their own model, and were not matched"
    return (f"{what}: {'; '.join(names)}",) if names else ()


def _lower(report: Report, sides: tuple[Side, Side], total_steps: int, free_steps: int, seeds: int) -> Report:
    """Adds what float32 and bfloat16 show, and which planted bugs each precision sees."""
    low: list[LowPrecision] = []
    notes = list(report.notes)
    planted = detection(sides[0], precision="fp64", total_steps=total_steps)
    for precision in LOW:
        lives, problems = _opened(sides, precision)
        notes += problems
        if not problems:
            found = compare_low_precision_open(
                *lives, precision=precision, total_steps=total_steps, seeds=seeds, free_steps=free_steps
            )
            low.append(found)
            planted += detection(sides[0], precision=precision, total_steps=total_steps, seeds=seeds)
    return replace(report, low=tuple(low), planted=tuple(planted), notes=tuple(notes))


def _opened(sides: tuple[Side, Side], precision: str) -> tuple[list[Live], list[str]]:
    """The sides, ready in a precision, and sentences for those that cannot run in it."""
    lives, problems = [], []
    for side in sides:
        try:
            live = side.open(precision)
            live.probe(side.batches(0))
            lives.append(live)
        # A user's model may fail in any way; what it says belongs into the report.
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[0]
            problems.append(
                f"{precision} was not compared: the {side.backend} model does not run in it "
                f"({type(error).__name__}: {said})"
            )
    return lives, problems
