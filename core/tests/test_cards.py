"""Model cards without a run: what a table survives, what is written over, and what is left out."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from parity_tests.cards import read

import crosstrain as ct
from crosstrain.callbacks import Record, Recorder
from crosstrain.cards.facts import CardFacts, EpochEnd, epoch_rows
from crosstrain.cards.metadata import metadata
from crosstrain.cards.render import MARK, render
from crosstrain.cards.writing import CardFile
from crosstrain.trackers.base import flatten

RECORDS = [
    Record(step=1, epoch=0, values={"loss": 3.0, "learning_rate": 0.1}),
    Record(step=2, epoch=0, values={"loss": 9.0, "learning_rate": 0.2}),
    Record(step=3, epoch=1, values={"loss": float("nan"), "learning_rate": 0.3}),
    Record(step=2, epoch=0, values={"loss": 1.0, "learning_rate": 0.2}),  # taken again after a crash
]
EVALUATIONS = [Record(step=2, epoch=0, values={"a|b": 0.5, "loss": 1.5})]
FACTS = CardFacts(
    settings={"backend": "jax", "parameter_count": 1000, "mesh.data": 2, "mesh.fsdp": 1, "optimizer.type": "Sgd"},
    model="Net",
    config=None,
    step=3,
    epochs=epoch_rows(RECORDS, EVALUATIONS, {2: EpochEnd(7, 1.0)}),
)
NAMED = ct.CardSpec(name="a", task="t", datasets=("d: #1", "e"))


def test_rows_are_means_and_of_a_step_taken_twice_the_second_counts() -> None:
    first, second, third = FACTS.epochs
    assert (first.step, first.train, first.evaluation) == (
        2,
        {"loss": 2.0, "learning_rate": 0.2},
        {"a|b": 0.5, "loss": 1.5},
    )
    assert (second.step, second.evaluation, second.seconds) == (3, {}, None)
    assert (third.step, third.train, third.seconds) == (7, {}, 1.0)


def test_the_result_belongs_to_the_weights_where_they_were_evaluated() -> None:
    rows = epoch_rows(
        [], [Record(step=2, epoch=0, values={"loss": 1.0}), Record(step=4, epoch=1, values={"loss": 2.0})], {}
    )
    at = {step: dataclasses.replace(FACTS, epochs=rows, step=step).result for step in (2, 4, 5)}
    assert [at[step].step for step in (2, 4, 5)] == [2, 4, 4]  # type: ignore[union-attr]
    assert dataclasses.replace(FACTS, epochs=()).result is None


@pytest.mark.parametrize("value", [r"^a|b$", "`x` | ``y``", "two\nlines", "`", "<!-- -->", r"\|", "*a* _b_ [c](d)"])
def test_no_value_breaks_a_table(value: str) -> None:
    settings = {**FACTS.settings, "optimizer.match": value, "optimizer.off": None, "optimizer.layers": "()"}
    card = read(render(dataclasses.replace(FACTS, settings=settings), NAMED, "a", None))
    expected = {"optimizer": "Sgd", "optimizer.match": value.replace("\n", " "), "mesh": "data 2"}
    assert card.settings("Training") == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64", ct.Precision(casting="autocast")])
def test_the_lines_that_load_it_name_the_precision(precision: Any) -> None:
    settings = {**FACTS.settings, **dict(flatten({"precision": ct.Precision.parse(precision)}))}
    spec = dataclasses.replace(NAMED, portable='a "b"')
    [code] = read(render(dataclasses.replace(FACTS, settings=settings), spec, "a", None)).code["Loading"]
    made: list[Any] = []
    line = next(line for line in code.splitlines() if line.startswith("accelerator = "))
    call = line.removeprefix("accelerator = ct.Accelerator")
    eval(f"note{call}", {"ct": ct, "note": lambda backend, precision="fp32": made.append((backend, precision))})
    assert made[0][0] == "jax"
    assert ct.Precision.parse(made[0][1]) == ct.Precision.parse(precision)
    assert code.splitlines()[-1] == 'accelerator.restore("a \\"b\\"", state)'


def test_metrics_keep_their_names_and_gaps_are_empty() -> None:
    columns, first, second, third = read(render(FACTS, NAMED, "a", None)).tables["Epochs"]
    assert columns[2:6] == ["training loss", "learning rate", "evaluation loss", "evaluation a|b"]
    assert first[:6] == ["1", "2", "2", "0.2", "1.5", "0.5"]
    assert second[:6] == ["2", "3", "nan", "0.3", "", ""]
    assert third[:6] == ["3", "7", "", "", "", ""]


def test_the_head_holds_what_was_given_and_only_finite_numbers() -> None:
    found = read(render(FACTS, NAMED, "a", None)).metadata
    assert found["datasets"] == ["d: #1", "e"]
    [result] = found["model-index"][0]["results"]
    assert result["dataset"] == {"type": "d: #1", "name": "d: #1"}
    assert {each["type"]: each["value"] for each in result["metrics"]} == {"a|b": 0.5, "loss": 1.5}
    assert metadata(FACTS, ct.CardSpec(), "a") == {
        "library_name": "crosstrain",
        "tags": ["crosstrain"],
        "metrics": ["a|b"],
    }
    lost = epoch_rows([], [Record(step=1, epoch=0, values={"loss": float("inf")})], {})
    assert "model-index" not in metadata(dataclasses.replace(FACTS, epochs=lost), NAMED, "a")


def test_the_hubs_own_library_reads_it() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(render(FACTS, dataclasses.replace(NAMED, license="mit", tags=("x",)), "a", None)).data
    assert (data.library_name, data.license, data.tags, data.model_name) == (
        "crosstrain",
        "mit",
        ["crosstrain", "x"],
        "a",
    )
    assert {each.metric_type: each.metric_value for each in data.eval_results} == {"a|b": 0.5, "loss": 1.5}
    assert {(each.dataset_name, each.task_type) for each in data.eval_results} == {("d: #1", "t")}


def curves() -> Recorder:
    recorder = Recorder()
    recorder.records = RECORDS
    return recorder


def test_a_card_is_written_over_and_what_is_no_card_is_not(tmp_path: Path) -> None:
    file = CardFile(tmp_path / "run" / "README.md")
    accelerator: Any = Alone()
    file.require_free(accelerator)
    for name in ("a", "b"):
        file.write(FACTS, dataclasses.replace(NAMED, name=name), curves())
        assert f"# {name}\n" in file.card.read_text()
    assert sorted(path.name for path in file.card.parent.iterdir()) == ["README.md", "README_training.png"]
    kept = file.card.read_text().replace(f"{MARK}\n", "")
    file.card.write_text(kept)
    for attempt in (lambda: file.require_free(accelerator), lambda: file.write(FACTS, NAMED, curves())):
        with pytest.raises(
            ct.ConfigError, match=r"path must be free or a card that crosstrain wrote, got path=.*README"
        ):
            attempt()
    assert file.card.read_text() == kept
    CardFile(file.path, overwrite=True).write(FACTS, NAMED, curves())
    assert MARK in file.card.read_text()


def test_a_picture_of_others_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "README_training.png").write_bytes(b"a holiday")
    with pytest.raises(ct.ConfigError, match=r"got path=.*README_training\.png, which is neither"):
        CardFile(tmp_path).require_free(Alone())  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_place_that_holds_no_card_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ct.ConfigError, match="path must be"):
        CardFile(path).require_free(Alone())  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(ct.ConfigError, match="path must be a place for a card"):
        CardFile(tmp_path / "file" / "folder").require_free(Alone())  # type: ignore[arg-type]


def test_without_matplotlib_the_card_says_what_plots_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    CardFile(tmp_path).write(FACTS, NAMED, curves())
    assert "pip install 'crosstrain[examples]'" in (tmp_path / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"datasets": "digits"}, "datasets must be a tuple of names, got datasets='digits'"),
        ({"tags": ("a", "")}, "tags must be a tuple of names"),
        ({"license": ""}, "license must be a name or None, got license=''"),
        ({"task": 3}, "task must be a name or None, got task=3"),
    ],
)
def test_specs_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ct.ConfigError, match=message):
        ct.CardSpec(**options)


class Alone:
    """What a card asks an accelerator, of one process."""

    is_main_process = True

    @staticmethod
    def broadcast_object(value: Any) -> Any:
        return value
