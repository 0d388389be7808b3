"""A plain PyTorch loop, and the same loop with crosstrain: the lines that change end in a number.

    python examples/five_lines_torch.py

Both train the same module from the same weights on the same batches, in float32. scikit-learn gives the data.
It prints

    final loss: before 0.3186330, after 0.3186330, relative difference 3.5e-08
"""

import sys

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import crosstrain as ct

EPOCHS, BATCH_SIZE = 10, 100
IMAGES, LABELS = load_digits(return_X_y=True)
DIGITS = TensorDataset(torch.tensor(IMAGES / 16, dtype=torch.float32), torch.tensor(LABELS))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def before() -> float:
    loader = DataLoader(DIGITS, batch_size=BATCH_SIZE)
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    for _ in range(EPOCHS):
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return loss.item()


def after() -> float:
    accelerator = ct.Accelerator("torch")  # 1
    loader = accelerator.loader(DataLoader(DIGITS, batch_size=BATCH_SIZE))  # 2
    model = classifier()
    state = accelerator.prepare(model, ct.adamw(1e-3, weight_decay=0.01))  # 3

    def loss_fn(model, batch, ops):
        return ops.cross_entropy(model(batch["x"]), batch["y"])

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
