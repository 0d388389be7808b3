"""Handwritten digits from settings: a YAML file, and what the command line changes of it.

    python examples/run_config.py
    python examples/run_config.py --backend torch --learning-rate 5e-3 --num-train-epochs 5
    python examples/run_config.py --config my.yaml --backend jax --mesh.data 1 --output-dir runs/digits

`--help` lists every setting with the value that the file gives it. With `--output-dir` a run that was killed goes on
where it was. Needs scikit-learn (`pip install 'crosstrain[examples]'`). The file's own settings end with

    jax: test accuracy 0.9972 (15 epochs, peak rate 0.01)
    torch: test accuracy 0.9944 (15 epochs, peak rate 0.01)
"""

import argparse
from pathlib import Path

import crosstrain as ct

DEFAULT = Path(__file__).with_suffix(".yaml")


def read_settings() -> ct.RunConfig:
    """`--config` names the file; every other argument is one of its settings."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", type=Path, default=DEFAULT)
    file, rest = parser.parse_known_args()
    return ct.RunConfig.cli(rest, default=ct.RunConfig.from_yaml(file.config))


def loss_fn(model, batch, ops):
    logits = model(batch["image"])
    loss = ops.cross_entropy(logits, batch["label"], label_smoothing=0.1)
    return loss, {"accuracy": ops.accuracy(logits, batch["label"])}


def main(config: ct.RunConfig) -> None:
    accelerator = config.accelerator()
    digits = ct.data.digits()
    # BatchNorm would count padded images, so the last batch of an epoch, which is short, is left out.
    train = accelerator.loader(digits.train, batch_size=config.batch_size, shuffle=True, drop_last=True)
    test = accelerator.loader(digits.test, batch_size=256)

    model = ct.models.build("resnet9", ct.models.ResNet9Config(width=8, image_size=8, in_channels=1), accelerator)
    state = accelerator.prepare(model, config.optimizer(len(train) * config.num_train_epochs))
    trainer = config.trainer(accelerator, state, loss_fn)
    trainer.fit(train, **config.fit_options(test))

    accuracy = trainer.evaluate(test)["accuracy"]
    if accelerator.is_main_process:
        print(
            f"{accelerator.backend}: test accuracy {accuracy:.4f} "
            f"({config.num_train_epochs} epochs, peak rate {config.learning_rate:g})"
        )
    accelerator.close()


if __name__ == "__main__":
    main(read_settings())
