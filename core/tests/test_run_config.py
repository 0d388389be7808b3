"""`RunConfig`: settings from files and command lines, and what they build."""

from pathlib import Path
from typing import Any

import pytest

import crosstrain as ct

CONFIG = ct.RunConfig(
    backend="torch", learning_rate=1e-3, mesh=ct.MeshSpec(fsdp=2), output_dir=Path("runs/a"), max_grad_norm=None
)


def test_yaml_gives_an_equal_config(tmp_path: Path) -> None:
    CONFIG.to_yaml(tmp_path / "new" / "run.yaml")
    assert ct.RunConfig.from_yaml(tmp_path / "new" / "run.yaml") == CONFIG
    (tmp_path / "empty.yaml").write_text("")
    assert ct.RunConfig.from_yaml(tmp_path / "empty.yaml") == ct.RunConfig()


def test_yaml_reads_numbers_as_people_write_them(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-3\nweight_decay: 0\nmesh: {fsdp: 2}\n")
    config = ct.RunConfig.from_yaml(tmp_path / "run.yaml")
    assert (config.learning_rate, config.weight_decay, config.mesh) == (1e-3, 0.0, ct.MeshSpec(fsdp=2))


def test_yaml_may_say_no_without_quotes(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("save_strategy: no\neval_strategy: no\nresume: no\n")
    config = ct.RunConfig.from_yaml(tmp_path / "run.yaml")
    assert (config.save_strategy, config.eval_strategy, config.resume) == ("no", "no", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1", "got 'learning_rte'. Did you mean learning_rate"),
        ("mesh: {fdsp: 2}", "mesh in .* got 'fdsp'. Did you mean fsdp"),
        ("qqq: 1", "Use one of backend, "),
        ("- 1", "must hold names and values, got list"),
        ("a: [", "must be a YAML file"),
        ("learning_rate: fast", "learning_rate must be a number, got learning_rate='fast'"),
        ("learning_rate:", "learning_rate must be a number, got learning_rate=None"),
        ("batch_size: 2.5", "batch_size must be an integer"),
        ("warmup_steps: 1e2", "warmup_steps must be an integer, got warmup_steps='1e2'"),
        ("seed: true", "seed must be an integer, got seed=True"),
        ("resume: 'no'", "resume must be true or false, got resume='no'"),
        ("precision: 16", "precision must be a string, got precision=16"),
        ("output_dir: 3", "output_dir must be a path, got output_dir=3"),
        ("mesh: {fsdp: '2'}", "fsdp must be an integer, got fsdp='2'"),
        ("save_strategy: always", "save_strategy must be one of no, epoch, steps, got save_strategy='always'"),
        ("eval_strategy: steps", "eval_strategy must be one of no, epoch"),
        ("{lr_scheduler_type: one_cycle, warmup_steps: 3}", "warmup_steps must be 0 for"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(ct.ConfigError, match=message):
        ct.RunConfig.from_yaml(tmp_path / "run.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ct.ConfigError, match="which is a folder"):
        ct.RunConfig.from_yaml(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ct.ConfigError, match="must be a YAML file"):
        ct.RunConfig.from_yaml(tmp_path / "binary.yaml")
    with pytest.raises(ct.ConfigError, match="does not exist"):
        ct.RunConfig.from_yaml(tmp_path / "run.yaml")


def test_the_command_line_changes_a_default() -> None:
    args = ["--mesh.fsdp", "4", "--learning-rate", "0.5", "--save-strategy", "steps"]
    config = ct.RunConfig.cli(args, default=CONFIG)
    assert (config.mesh.fsdp, config.learning_rate, config.backend) == (4, 0.5, "torch")
    spec: Any = config.checkpoints()
    assert (spec.every_steps, spec.every_epoch, spec.keep_last) == (500, False, 3)
    with pytest.raises(SystemExit):
        ct.RunConfig.cli(["--learning-rte", "1"])


def test_schedules_are_those_of_the_package() -> None:
    def schedule(kind: Any, **options: Any) -> ct.Schedule:
        return ct.RunConfig(learning_rate=0.1, lr_scheduler_type=kind, **options).schedule(10)

    assert schedule("constant") == ct.constant(0.1)
    assert schedule("linear", warmup_steps=2) == ct.linear(0.1, 10, warmup_steps=2)
    assert schedule("cosine", warmup_steps=2) == ct.cosine(0.1, 10, warmup_steps=2)
    assert schedule("one_cycle") == ct.one_cycle(0.1, 10)
    assert ct.RunConfig(learning_rate=0.1, weight_decay=0.2).optimizer(4) == ct.adamw(
        ct.linear(0.1, 4), weight_decay=0.2, groups=(ct.undecayed(),)
    )


@pytest.mark.parametrize("norm", [None, 0.0])
def test_no_norm_and_one_of_0_do_not_clip(norm: float | None) -> None:
    accelerator = ct.Accelerator("torch")
    state = accelerator.prepare(ct.models.build("mlp", ct.models.MLPConfig(hidden=(8,)), accelerator), ct.sgd(0.1))
    trainer = ct.RunConfig(max_grad_norm=norm).trainer(accelerator, state, lambda m, b, ops: None, progress=False)
    assert trainer.options.clip_norm is None


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_run_from_a_config_trains_saves_and_goes_on(backend: str, tmp_path: Path) -> None:
    config = ct.RunConfig(
        backend=backend, batch_size=8, accumulate_steps=2, num_train_epochs=2, learning_rate=0.01, output_dir=tmp_path
    )

    def run() -> ct.History:
        accelerator, digits = config.accelerator(), ct.data.digits()
        train = {name: values[:32] for name, values in digits.train.items()}
        loader = accelerator.loader(train, batch_size=config.batch_size, shuffle=True)
        model = ct.models.build("mlp", ct.models.MLPConfig(hidden=(8,)), accelerator)
        state = accelerator.prepare(model, config.optimizer(len(loader) * config.num_train_epochs))
        trainer = config.trainer(
            accelerator, state, lambda m, b, ops: ops.cross_entropy(m(b["image"]), b["label"]), progress=False
        )
        return trainer.fit(loader, **config.fit_options(loader))

    first = run()
    assert [each.step for each in first.evaluations] == [4, 8]
    assert first.evaluations[1].values["loss"] < first.evaluations[0].values["loss"]
    assert not run().train
