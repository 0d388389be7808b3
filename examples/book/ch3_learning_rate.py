# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 3. The learning rate: find it, then cycle it
#
# Of all the numbers in a training script the learning rate matters most, and it is usually copied from somewhere.
# Leslie Smith's two papers replace the copying by a measurement and a shape. The *range test* (2015) trains for a
# minute with a rate that grows from far too small to far too large. *One-cycle* (2018) then visits the largest useful
# rate in the middle of training, where it does good, and stays away from it at both ends, where it does harm. fastai
# made both popular.

# %%
import importlib.util
from pathlib import Path

import numpy as np

import crosstrain as ct

digits = ct.data.digits()
EPOCHS, BATCH = 3, 64


def loss_fn(model, batch, ops):
    logits = model(batch["image"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def setup(backend, optimizer, precision="fp32", seed=0, callbacks=()):
    """A small ResNet-9; its batch norms let it live with rates that would kill a plain network."""
    accelerator = ct.Accelerator(backend, precision=precision, seed=seed)
    loader = accelerator.loader(digits.train, batch_size=BATCH, shuffle=True, drop_last=True)
    config = ct.models.ResNet9Config(width=4, image_size=8, in_channels=1)
    state = accelerator.prepare(ct.models.build("resnet9", config, accelerator), optimizer)
    return ct.Trainer(accelerator, state, loss_fn, progress=False, callbacks=callbacks), loader


# %% [markdown]
# ## The range test, from nothing
#
# A schedule whose rate grows by the same factor at each step, a loop, and one rule for when to stop: the loss is four
# times its best. Single losses are noisy, so they are averaged exponentially, with the same bias correction as Adam's
# averages in chapter 2.

# %%
FIRST, LAST, STEPS, SMOOTHING = 1e-4, 100.0, 100, 0.98


def by_hand():
    trainer, loader = setup("torch", ct.sgd(ct.lr_range(FIRST, LAST, STEPS), momentum=0.9), precision="fp64")
    step = trainer.accelerator.train_step(loss_fn)
    losses, smoothed, average = [], [], 0.0
    while len(losses) < STEPS:
        for batch in loader:
            losses.append(step(trainer.state, batch)["loss"])
            average = SMOOTHING * average + (1 - SMOOTHING) * losses[-1]
            smoothed.append(average / (1 - SMOOTHING ** len(losses)))
            if smoothed[-1] > 4 * min(smoothed) or len(losses) == STEPS:
                return np.array(losses)
    raise AssertionError


losses = by_hand()
rates = FIRST * (LAST / FIRST) ** (np.arange(STEPS) / (STEPS - 1))
print(
    f"{len(losses)} steps: loss {losses[0]:.2f} at first, {losses.min():.2f} at its best, {losses[-1]:.2f} at the end"
)

# %% [markdown]
# ## The same with `lr_find`
#
# `lr_find` does this and puts everything back afterwards, bit for bit: weights, momentum, batch-norm statistics, the
# place in the data. In float64 both engines see the same curve, until the loss explodes; there, every rounding error
# explodes with it.

# %%
curves = {}
for backend in ("torch", "jax"):
    trainer, loader = setup(backend, ct.sgd(0.1, momentum=0.9), precision="fp64")
    before = trainer.state.snapshot()
    curves[backend] = trainer.lr_find(loader, ct.RangeTest(start=FIRST, end=LAST, steps=STEPS))
    after = trainer.state.snapshot()
    assert all(np.array_equal(before.params[name], after.params[name]) for name in before.params)
curve = curves["torch"]
best = int(np.argmin(curve.smoothed))
print(curve.text())
print({name: round(rate, 3) for name, rate in curve.suggestions.items()})
assert np.array_equal(curve.losses, losses)  # the ten lines above
assert np.allclose(curve.rates, rates[: len(losses)], rtol=1e-12)
assert np.allclose(curves["jax"].losses[:best], curve.losses[:best], rtol=1e-9)
assert curves["jax"].suggestions == curve.suggestions

# %% [markdown]
# How to read it. Flat at the left: too small to learn. The slope: useful. `valley` is in the middle of the longest
# descent, `steep` where it falls fastest, and `minimum` a tenth of the best rate, which is the largest that is safe to
# *visit*. Past the lowest point the steps are longer than the landscape is smooth.
#
# ## One cycle
#
# Two half cosines: up from peak/25 in the first quarter, down to almost nothing in the rest. The momentum goes the
# other way, for long steps in old directions are what makes high rates blow up.

# %%
peak = curve.suggestions["steep"]
total = EPOCHS * len(loader)


def cosine(a, b, share):
    return b + (a - b) * (1 + np.cos(np.pi * share)) / 2


share = np.arange(total) / total
formula = np.where(share < 0.25, cosine(peak / 25, peak, share / 0.25), cosine(peak, peak / 1e5, (share - 0.25) / 0.75))
assert np.allclose(ct.one_cycle(peak, total).table(total), formula, rtol=1e-12)

# %% [markdown]
# ## Does it pay?
#
# Three epochs, that is 66 steps, from the same weights on the same batches. Constant rates have to choose: slow, or
# noisy at the end. One cycle does not, and two seeds say whether that was luck.

# %%
recorder = ct.callbacks.Recorder()


def trained(seed, rate, cycle, callbacks=()):
    trainer, loader = setup("torch", ct.sgd(rate, momentum=0.9), seed=seed, callbacks=callbacks)
    if cycle:
        trainer.fit_one_cycle(loader, EPOCHS, max_lr=rate)
    else:
        trainer.fit(loader, epochs=EPOCHS)
    return trainer.evaluate(trainer.accelerator.loader(digits.test, batch_size=BATCH))


results = {}
for name, rate, cycle in (("constant", peak / 30, False), ("constant", peak, False), ("one cycle", peak, True)):
    tests = [trained(seed, rate, cycle, (recorder,) if cycle and seed == 0 else ()) for seed in (0, 1)]
    results[name, rate] = np.mean([test["loss"] for test in tests])
    print(
        f"{name:>9} {rate:.3f}: test loss {results[name, rate]:.3f}, accuracy", [round(t["accuracy"], 4) for t in tests]
    )
constant = min(loss for (name, _), loss in results.items() if name == "constant")
assert results["one cycle", peak] < constant
assert np.allclose(recorder.rates, formula, rtol=1e-12)
assert np.argmin(recorder.momenta) == np.argmax(recorder.rates)  # momentum is lowest where the rate is highest

# %%
if importlib.util.find_spec("matplotlib"):
    folder = Path("runs/book")
    curve.plot(folder / "range_test.png")
    recorder.plot(folder / "one_cycle.png")
    print(f"wrote {folder}/range_test.png and one_cycle.png")
