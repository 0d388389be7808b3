"""Tries the fix of a known cause, and says whether it closes the gap."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from crosstrain.accelerator import Accelerator
from crosstrain.parity.findings import Finding
from crosstrain.parity.side import Side
from crosstrain.parity.static import meaning
from crosstrain.parity.verdict import Verdict, compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """One fix that was tried, on top of those before it.

    Attributes:
        text: what was changed, on the side that is not the reference.
        before: largest relative loss difference of the free run without it.
        after: and with it; NaN where the changed side does not run.
        findings: how many differences are left.
        closes: whether nothing is left.
        helps: whether fewer differences are left than before, or the losses came ten times closer.
    """

    text: str
    before: float
    after: float
    findings: int
    closes: bool
    helps: bool


Setting = tuple[str, str, Any]


def try_fixes(
    a: Side, b: Side, verdict: Verdict, *, total_steps: int, free_steps: int, kept: Sequence[Finding] = ()
) -> tuple[list[Fix], Verdict]:
    """Tries layer settings of the reference on the other side, then the known defaults of its framework.

    A fix that does not help is taken back before the next one is tried.

    Args:
        a: the reference.
        b: the side that is changed.
        verdict: of the unchanged sides.
        total_steps: as for `compare`.
        free_steps: as for `compare`.
        kept: findings in the verdict that were made elsewhere and that none of the fixes changes.

    Returns:
        The fixes in the order in which they were tried, and the verdict with those that help.
    """
    tried: list[Fix] = []
    current, best = b, verdict
    settings = _different_settings(a, b)
    for text, change in [*_setting_changes(settings), *_default_changes(b)]:
        if len(best.findings) == len(kept):
            break
        candidate = change(current)
        try:
            result = compare(a, candidate, total_steps=total_steps, free_steps=free_steps).also(kept)
        # With another stride a later layer may not fit any more, and fails in its own way.
        except Exception:
            result = None
        tried.append(_fix(text, best, result))
        if result is not None and tried[-1].helps:
            current, best = candidate, result
    return tried, best


def _fix(text: str, best: Verdict, result: Verdict | None) -> Fix:
    before = best.free_difference
    if result is None:
        return Fix(text=text, before=before, after=float("nan"), findings=len(best.findings), closes=False, helps=False)
    return Fix(
        text=text,
        before=before,
        after=result.free_difference,
        findings=len(result.findings),
        closes=result.same_algorithm,
        helps=len(result.findings) < len(best.findings) or result.free_difference < 0.1 * before,
    )


def _different_settings(a: Side, b: Side) -> dict[tuple[str, Any], list[Setting]]:
    """Settings of the reference that the other side has otherwise, with all layers that share one difference.

    Those that its engine cannot change afterwards are left out: nothing could be said of them.
    """
    x, y = a.open("fp64"), b.open("fp64")
    theirs = y.module_settings()
    own_paths = dict(zip(theirs, y.accelerator.module_settings(y.state.model), strict=True))
    found: dict[tuple[str, Any], list[Setting]] = {}
    for path, settings in x.module_settings().items():
        for name, value in settings.values.items():
            # Whether masks are native follows from the layer, it is no setting. `y` was opened for this and is changed.
            differs = path in theirs and name != "masks" and theirs[path].values.get(name) != value
            if differs and y.accelerator.change_setting(y.state.model, own_paths[path], name, value):
                found.setdefault((name, value), []).append((own_paths[path], name, value))
    return found


def _setting_changes(settings: dict[tuple[str, Any], list[Setting]]) -> list[tuple[str, Callable[[Side], Side]]]:
    changes: list[tuple[str, Callable[[Side], Side]]] = []
    for (name, value), layers in settings.items():
        where = ", ".join(path for path, _, _ in layers[:3]) + (", ..." if len(layers) > 3 else "")
        changes.append((f"{name}={value}{meaning(name)} in {where}", partial(_with_settings, layers=layers)))
    return changes


def _with_settings(side: Side, layers: list[Setting]) -> Side:
    def model(accelerator: Accelerator) -> Any:
        made = side.model(accelerator)
        for path, name, value in layers:
            accelerator.change_setting(made, path, name, value)
        return made

    return replace(side, model=model)


def _default_changes(side: Side) -> list[tuple[str, Callable[[Side], Side]]]:
    defaults = Accelerator(side.backend).framework_defaults()
    return [(text, partial(_with_scope, scope=scope)) for text, scope in defaults.items()]


def _with_scope(side: Side, scope: Callable[[], AbstractContextManager[Any]]) -> Side:
    def loss_fn(*arguments: Any) -> Any:
        with scope():
            return side.loss_fn(*arguments)

    return replace(side, loss_fn=loss_fn)
