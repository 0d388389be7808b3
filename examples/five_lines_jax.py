"""A plain JAX loop, and the same loop with crosstrain: the lines that change end in a number.

    python examples/five_lines_jax.py

Both train the same flax model from the same weights on the same batches, in float32. scikit-learn gives the data.
It prints

    final loss: before 0.2981378, after 0.2981352, relative difference 8.8e-06

and in float64 the loss is 0.2981352: optax computes Adam's 1 - 0.999^t in float32, where the subtraction loses digits.
"""

import sys

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import crosstrain as ct

EPOCHS, BATCH_SIZE = 10, 100
IMAGES, LABELS = load_digits(return_X_y=True)
DIGITS = {"image": (IMAGES / 16).astype(np.float32), "label": LABELS.astype(np.int32)}


class Classifier(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.hidden(x)))


def batches():
    for start in range(0, len(DIGITS["label"]), BATCH_SIZE):
        yield {name: values[start : start + BATCH_SIZE] for name, values in DIGITS.items()}


def before() -> float:
    model = Classifier(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adamw(1e-3, weight_decay=0.01), wrt=nnx.Param)

    def loss_fn(model, batch):
        logits = model(batch["image"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    @nnx.jit
    def step(model, optimizer, batch):
        loss, grads = nnx.value_and_grad(loss_fn)(model, batch)
        optimizer.update(model, grads)
        return loss

    for _ in range(EPOCHS):
        for batch in batches():
            loss = step(model, optimizer, batch)
    return float(loss)


def after() -> float:
    accelerator = ct.Accelerator("jax")  # 1
    loader = accelerator.loader(DIGITS, batch_size=BATCH_SIZE)  # 2
    model = Classifier(nnx.Rngs(0))
    state = accelerator.prepare(model, ct.adamw(1e-3, weight_decay=0.01))  # 3

    def loss_fn(model, batch, ops):
        logits = model(batch["image"])
        return ops.cross_entropy(logits, batch["label"])

    step = accelerator.train_step(loss_fn)  # 4

    for _ in range(EPOCHS):
        for batch in loader:
            metrics = step(state, batch)  # 5
    return metrics["loss"]


def main() -> None:
    plain, crosstrain = before(), after()
    difference = abs(crosstrain - plain) / plain
    print(f"final loss: before {plain:.7f}, after {crosstrain:.7f}, relative difference {difference:.1e}")
    if difference > 1e-4:
        sys.exit("the losses must agree to float32 rounding over 180 steps.")


if __name__ == "__main__":
    main()
