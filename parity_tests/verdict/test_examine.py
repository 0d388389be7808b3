"""What `crosstrain parity` says of a port: low precision, confidence, blind spots, and what it cannot compare."""

import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import crosstrain as ct
from crosstrain.parity import Report, examine
from crosstrain.parity.free_run import FreeRun, chance
from crosstrain.parity.view import terminal, write_page
from parity_tests.verdict.small_port import FlaxNet, batches, small_port


def text_of(report: Report) -> str:
    out = io.StringIO()
    Console(width=400, file=out).print(terminal(report))
    return " ".join(out.getvalue().split())


@pytest.fixture(scope="module")
def same() -> Report:
    return examine(small_port(), free_steps=6, seeds=4)


@pytest.fixture(scope="module")
def different() -> Report:
    return examine(small_port(eps=1e-3), free_steps=4)


@pytest.fixture(scope="module")
def unmatched() -> Report:
    def without_head() -> FlaxNet:
        model = FlaxNet(rate=0.0, fourier=False, eps=1e-5)
        del model.head
        return model

    return examine(small_port(jax_model=without_head))


def test_a_good_port_goes_through_every_precision(same: Report) -> None:
    assert same.same
    assert [low.precision for low in same.low] == ["fp32", "bf16"]
    assert all(low.findings == () and low.free.difference.shape == (6,) for low in same.low)
    assert {bug.precision for bug in same.planted} == {"fp64", "fp32", "bf16"}
    assert all(bug.seen for bug in same.planted if bug.precision == "fp64")
    text = text_of(same)
    for part in (
        "resynchronised steps in low precision",
        "free runs in low precision (a warning, no proof)",
        "the 0.95 quantile of 4 nudged runs",
        "above the largest of the 4 with 1/5",
        "bf16 could not have seen: ",
        "layer_norm eps 1e-05 -> 1e-06 in norm",
        "same algorithm: torch and jax agree in float64",
    ):
        assert part in text, text


def test_low_precision_can_be_left_out() -> None:
    report = examine(small_port(), free_steps=2, low_precision=False)
    assert report.same
    assert (report.low, report.planted, report.notes) == ((), (), ())


def test_low_precision_is_skipped_where_float64_differs(different: Report) -> None:
    assert not different.same
    assert (different.low, different.planted) == ((), ())
    assert "float32, bfloat16 and planted bugs were left out" in text_of(different)
    assert different.fixed is not None
    assert different.fixed.same_algorithm


def test_what_has_no_partner_gives_no_verdict(unmatched: Report) -> None:
    assert (unmatched.same, unmatched.verdict) == (False, None)
    assert "head.weight │ │ NO PARTNER" in text_of(unmatched)


def test_native_dropout_is_switched_off_and_said() -> None:
    report = examine(small_port(rates=(0.2, 0.2)), free_steps=2, low_precision=False)
    assert report.same
    assert report.notes == (
        "dropout was switched off in both models, since each framework draws masks of its own: "
        "drop (torch); drop (jax)",
    )


def test_other_dropout_rates_are_a_difference() -> None:
    report = examine(small_port(rates=(0.2, 0.0)), free_steps=2, low_precision=False)
    first = report.verdict.first
    cause = "rate 0.2 of elements against none: the jax model has no such layer, or does not call it"
    assert (first.channel, first.where, first.cause) == ("settings", "dropout drop", cause)
    assert len(report.verdict.findings) == 1


def test_a_model_with_random_numbers_of_its_own_is_refused_in_a_sentence() -> None:
    report = examine(small_port(functional_rate=0.2), free_steps=2)
    assert report.verdict is None
    assert report.notes[-1].startswith("the torch model draws random numbers of its own: the same batch and weights")
    assert "no verdict: the models could not be compared" in text_of(report)


def batches_with_a_label_out_of_range(since: int) -> Callable[[int], dict[str, np.ndarray]]:
    def of_step(step: int) -> dict[str, np.ndarray]:
        batch = batches(step)
        return {**batch, "label": batch["label"] + np.int32(3 * (step >= since))}

    return of_step


def test_a_loss_that_is_not_finite_is_no_randomness() -> None:
    report = examine(small_port(batches=batches_with_a_label_out_of_range(0)), free_steps=2, low_precision=False)
    assert report.verdict is None
    starts = [f"the loss of the {backend} model must be finite, got nan on batch 0" for backend in ("torch", "jax")]
    assert len(report.notes) == len(starts)
    assert all(note.startswith(start) for note, start in zip(report.notes, starts, strict=True))


def test_losses_that_stop_being_finite_name_the_batch() -> None:
    """On both sides: nothing after it can be compared, and no layer is to blame."""
    port = small_port(batches=batches_with_a_label_out_of_range(2))
    report = examine(port, free_steps=4, low_precision=False)
    assert [finding.where for finding in report.verdict.findings] == ["loss of the free run"]
    assert "no loss is finite from batch 2 on (nan on torch, nan on jax)" in report.verdict.first.cause


def test_a_loss_that_no_parameter_changes_is_no_proof() -> None:
    def nothing(model: Any, batch: Any, ops: Any) -> Any:
        return ops.mean(0 * model(batch["x"])[:, 0])

    report = examine(small_port(torch_loss=nothing, jax_loss=nothing), free_steps=2, low_precision=False)
    assert report.verdict is not None
    assert [finding.where for finding in report.verdict.findings] == ["all gradients"]
    assert "the loss does not depend on the parameters" in report.verdict.first.cause


def test_a_model_that_cannot_run_in_bfloat16_is_compared_without_it() -> None:
    report = examine(small_port(fourier=True), free_steps=3, seeds=2)
    assert report.same
    assert [low.precision for low in report.low] == ["fp32"]
    assert any(note.startswith("bf16 was not compared: the torch model does not run in it (") for note in report.notes)
    assert "Traceback" not in text_of(report)


def test_too_few_seeds_are_refused() -> None:
    with pytest.raises(ct.ConfigError, match="seeds at least 2, got free_steps=100 and seeds=1"):
        examine(small_port(), seeds=1)


def free_run(difference: np.ndarray, nudged: np.ndarray) -> FreeRun:
    return FreeRun(difference=difference, nudged=nudged, ulp=2.0**-23)


def test_the_limit_of_a_free_run_is_four_envelopes_and_eight_units() -> None:
    nudged = np.tile(np.linspace(0.0, 1e-6, 16)[:, None], (1, 5))
    allowed = 4 * np.quantile(nudged[:, 0], 0.95) + 8 * 2.0**-23
    assert free_run(np.full(5, allowed), nudged).multiple == pytest.approx(1.0, rel=1e-12)
    assert free_run(np.zeros(5), nudged).outside == 0


def test_one_bimodal_run_is_counted_and_the_horizon_ends_where_the_envelope_grows() -> None:
    nudged = np.full((16, 8), 1e-7)
    nudged[3, 2] = 1e-4
    assert free_run(np.zeros(8), nudged).outside == 1
    nudged[3, 2], nudged[:, 5:] = 1e-7, 1e-3
    assert free_run(np.zeros(8), nudged).horizon == 5


@pytest.mark.parametrize(
    ("events", "trials", "bound"), [(0, 16, 1 - 0.05 ** (1 / 16)), (1, 10, 0.3941633), (16, 16, 1)]
)
def test_the_chance_of_a_correct_run_is_bounded_from_above(events: int, trials: int, bound: float) -> None:
    """The second value from a table of exact binomial limits."""
    assert chance(events, trials) == pytest.approx(bound, abs=2e-6)


class _Page(HTMLParser):
    """Checks that every element is closed in order, and collects what an element may load."""

    EMPTY = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag


@pytest.mark.parametrize("shape", ["same", "different", "unmatched"])
def test_the_page_is_well_formed_and_loads_nothing(shape: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "new" / "parity.html"
    write_page(path, request.getfixturevalue(shape))
    text = path.read_text()
    page = _Page(text)
    assert page.open == []
    assert all(target.startswith("#") for target in page.loads)
    assert "://" not in text
    assert "@import" not in text
    assert ("<svg" in text) == (shape != "unmatched")


class Looped(FlaxNet):
    """Runs one of its layers in a loop that JAX traces, example by example."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.drop(jnp.tanh(jax.lax.map(self.fc, self.norm(x)))))


@pytest.mark.parametrize(("eps", "same"), [(1e-5, True), (1e-3, False)])
def test_layers_in_a_loop_of_jax_are_compared_by_what_comes_out(eps: float, same: bool) -> None:
    """Their values cannot leave the loop; those before and after it are seen."""
    made = small_port(jax_model=lambda: Looped(rate=0.0, fourier=False, eps=eps))
    report = examine(made, free_steps=2, low_precision=False)
    assert report.verdict is not None, report.notes
    assert report.same is same
