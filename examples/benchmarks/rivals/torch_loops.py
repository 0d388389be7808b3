"""Training loops in torch: plain ones, and its libraries as their own documentation writes them."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from rivals import models_torch
from rivals.workloads import DECAY, MOMENTUM, PEAK, RATE, TOTAL, WORKLOADS

Block = Callable[[int], float]


def _optimizer(name: str, model: nn.Module, **options: Any) -> tuple[torch.optim.Optimizer, Any]:
    if name == "resnet9":
        sgd = torch.optim.SGD(model.parameters(), PEAK, momentum=MOMENTUM, nesterov=True, **options)
        return sgd, torch.optim.lr_scheduler.OneCycleLR(sgd, PEAK, total_steps=TOTAL)
    return torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY, **options), None


def _batches(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.from_numpy(x), torch.from_numpy(y).long()) for x, y in WORKLOADS[name].batches()]


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def _loop(name: str, model: nn.Module, *, fused: bool | None) -> Block:
    optimizer, schedule = _optimizer(name, model, fused=fused)
    batches = itertools.cycle(_batches(name))

    def block(steps: int) -> float:
        for batch in itertools.islice(batches, steps):
            loss = loss_of(model, *batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if schedule is not None:
                schedule.step()
        return loss.item()

    return block


def eager(name: str) -> Block:
    """The loop of torch's tutorials."""
    return _loop(name, models_torch.make(name), fused=None)


def fused(name: str) -> Block:
    """The same with the fused optimizer."""
    return _loop(name, models_torch.make(name), fused=True)


def channels_last(name: str) -> Block:
    """With the memory format in which the CPU's convolutions are fastest, and the fused optimizer."""
    return _loop(name, models_torch.make(name).to(memory_format=torch.channels_last), fused=True)


def compiled(name: str) -> Block:
    """Forward, backward and AdamW in one compiled function, the fastest loop that torch allows."""
    torch._dynamo.config.trace_autograd_ops = True
    model = models_torch.make(name)
    params = list(model.parameters())
    first, second = ([torch.zeros_like(each) for each in params] for _ in range(2))
    batches, count = itertools.cycle(_batches(name)), 0

    def step(x: torch.Tensor, y: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        loss = loss_of(model, x, y)
        grads = torch.autograd.grad(loss, params)
        with torch.no_grad():
            rate, first_share, second_share = numbers.unbind()
            for param, grad, m, v in zip(params, grads, first, second, strict=True):
                m.lerp_(grad, 0.1)
                v.mul_(0.999).addcmul_(grad, grad, value=0.001)
                direction = (m / first_share) / ((v / second_share).sqrt() + 1e-8)
                param.sub_(rate * (direction + DECAY * param))
        return loss.detach()

    step = torch.compile(step, fullgraph=True)

    def block(steps: int) -> float:
        nonlocal count
        for batch in itertools.islice(batches, steps):
            count += 1
            loss = step(*batch, torch.tensor([RATE, 1 - 0.9**count, 1 - 0.999**count]))
        return loss.item()

    return block


def accelerate(name: str) -> Block:
    """https://huggingface.co/docs/accelerate, "Add Accelerate to your code"; batches are on the device already."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = models_torch.make(name)
    optimizer, schedule = _optimizer(name, model)
    model, optimizer = accelerator.prepare(model, optimizer)
    schedule = None if schedule is None else accelerator.prepare(schedule)
    batches = itertools.cycle(_batches(name))

    def block(steps: int) -> float:
        for batch in itertools.islice(batches, steps):
            optimizer.zero_grad()
            loss = loss_of(model, *batch)
            accelerator.backward(loss)
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return loss.item()

    return block


def fabric(name: str) -> Block:
    """https://lightning.ai/docs/fabric, "Convert PyTorch code to Fabric"; batches are on the device already."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    model = models_torch.make(name)
    optimizer, _ = _optimizer(name, model)
    model, optimizer = fabric.setup(model, optimizer)
    batches = itertools.cycle(_batches(name))

    def block(steps: int) -> float:
        for batch in itertools.islice(batches, steps):
            optimizer.zero_grad()
            loss = loss_of(model, *batch)
            fabric.backward(loss)
            optimizer.step()
        return loss.item()

    return block


class _WithLoss(nn.Module):
    """What the Trainer wants of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": loss_of(self.model, x, labels)}


def transformers(name: str) -> Block:
    """https://huggingface.co/docs/transformers/trainer, nothing reported or saved; with its own data loader."""
    import tempfile

    from transformers import Trainer, TrainingArguments

    model, workload = _WithLoss(models_torch.make(name)), WORKLOADS[name]
    examples = [{"x": x, "labels": y} for xs, ys in _batches(name) for x, y in zip(xs, ys, strict=True)]
    folder = tempfile.mkdtemp()

    def block(steps: int) -> float:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=workload.batch,
            learning_rate=RATE,
            weight_decay=DECAY,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        return Trainer(model=model, args=arguments, train_dataset=examples).train().training_loss

    return block
