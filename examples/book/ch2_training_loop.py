# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 2. The training loop, from nothing
#
# A training loop is five lines: take a batch, compute the loss, differentiate it, change the weights, repeat. The rest
# of a training library is about doing so faster, on more machines, or after a crash. We write the lines bare in JAX
# and in PyTorch, with an optimizer of plain arithmetic, and then hand over to crosstrain. All six runs must print the
# same losses, in float64: a loop that forgets Adam's bias correction does not pass.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import torch

import crosstrain as ct

digits = ct.data.digits()
EPOCHS, BATCH, RATE = 4, 64, 3e-3
config = ct.models.MLPConfig(in_features=64, hidden=(128,), out_features=10)
start = config.initial_weights(0)  # canonical name -> float64 array, a function of (seed, name)


def batches():
    """Shuffled anew every epoch, from a generator keyed by (seed, epoch); the last, short batch is left out."""
    for epoch in range(EPOCHS):
        order = ct.random.permutation(0, epoch, len(digits.train["label"]))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            yield digits.train["image"][rows].reshape(BATCH, 64).astype(np.float64), digits.train["label"][rows]


# %% [markdown]
# ## What both loops share
#
# The forward pass and Adam are arithmetic, spelled the same for arrays of either kind. Adam (Kingma and Ba 2015) keeps
# two running averages of each gradient, its mean $m$ and mean square $v$. Both start at 0 and are therefore too small
# at first, by exactly $1 - \beta^t$; dividing by that is the bias correction.


# %%
def forward(w, x):
    hidden = x @ w["layers.0.weight"].T + w["layers.0.bias"]
    hidden = hidden * (hidden > 0)  # ReLU
    return hidden @ w["layers.1.weight"].T + w["layers.1.bias"]


def adam(w, m, v, g, t, b1=0.9, b2=0.999, eps=1e-8):
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    return w - RATE * (m / (1 - b1**t)) / ((v / (1 - b2**t)) ** 0.5 + eps), m, v


# %% [markdown]
# ## The loop in JAX
#
# State goes in, state comes out, and nothing is modified. So `jax.jit` may compile the whole step into one program.


# %%
def loop_in_jax():
    def loss_fn(w, x, labels):
        return -jax.nn.log_softmax(forward(w, x))[jnp.arange(len(labels)), labels].mean()

    @jax.jit
    def step(w, m, v, t, x, labels):
        loss, g = jax.value_and_grad(loss_fn)(w, x, labels)
        new = {name: adam(w[name], m[name], v[name], g[name], t) for name in w}
        return loss, *({name: triple[i] for name, triple in new.items()} for i in range(3))

    w = {name: jnp.asarray(values) for name, values in start.items()}
    m = v = jax.tree.map(jnp.zeros_like, w)
    losses = []
    for t, (x, labels) in enumerate(batches(), start=1):
        loss, w, m, v = step(w, m, v, jnp.float64(t), x, labels)
        losses.append(float(loss))
    return np.array(losses), w


with jax.enable_x64(True):
    jax_losses, jax_weights = loop_in_jax()

# %% [markdown]
# ## The loop in PyTorch
#
# Tensors are modified in place. `backward()` *adds* to `.grad`, so somebody has to clear it, and the update must stay
# off the tape: the two lines that everyone forgets once.


# %%
def loop_in_torch():
    w = {name: torch.tensor(values, requires_grad=True) for name, values in start.items()}
    m, v = ({name: torch.zeros_like(values) for name, values in w.items()} for _ in range(2))
    losses = []
    for t, (x, labels) in enumerate(batches(), start=1):
        loss = -torch.log_softmax(forward(w, torch.tensor(x)), dim=1)[torch.arange(BATCH), torch.tensor(labels)].mean()
        loss.backward()
        with torch.no_grad():
            for name, values in w.items():
                new, m[name], v[name] = adam(values, m[name], v[name], values.grad, t)
                values.copy_(new)
                values.grad = None
        losses.append(loss.item())
    return np.array(losses)


torch_losses = loop_in_torch()
print(
    f"loss {jax_losses[0]:.4f} -> {jax_losses[-1]:.4f}, differences {np.abs(torch_losses / jax_losses - 1).max():.1e}"
)
assert jax_losses[-1] < 0.1 * jax_losses[0]
assert np.allclose(jax_losses, torch_losses, rtol=1e-10, atol=0)

# %% [markdown]
# ## The same loop with crosstrain
#
# `loss_fn` is yours. `train_step` compiles it, together with the optimizer, into `step(state, batch)`; the loader
# gives the very batches from above. One text, two engines. `Trainer` is this loop with evaluation, logging and
# checkpoints around it.


# %%
def loss_fn(model, batch, ops):
    logits = model(batch["image"])
    return ops.cross_entropy(logits, batch["label"]), {"accuracy": ops.accuracy(logits, batch["label"])}


def prepared(backend):
    accelerator = ct.Accelerator(backend, precision="fp64", seed=0)
    loader = accelerator.loader(digits.train, batch_size=BATCH, shuffle=True, drop_last=True)
    state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.adam(RATE))
    return accelerator, loader, state


def with_train_step(backend):
    accelerator, loader, state = prepared(backend)
    step = accelerator.train_step(loss_fn)
    metrics = [step(state, batch) for _ in range(EPOCHS) for batch in loader]  # stays on the device until it is read
    return np.array([each["loss"] for each in metrics])


def with_trainer(backend):
    accelerator, loader, state = prepared(backend)
    trainer = ct.Trainer(accelerator, state, loss_fn, log_every=1, progress=False)
    trainer.fit(loader, epochs=EPOCHS)
    test = trainer.evaluate(accelerator.loader(digits.test, batch_size=BATCH))
    return trainer.history.values("loss"), test["accuracy"]


for backend in ("jax", "torch"):
    by_step, (by_trainer, accuracy) = with_train_step(backend), with_trainer(backend)
    worst = max(np.abs(losses / jax_losses - 1).max() for losses in (by_step, by_trainer))
    print(
        f"{backend:>5}: train_step and Trainer differ from the bare loop by {worst:.1e}; test accuracy {accuracy:.4f}"
    )
    assert worst < 1e-10
    assert accuracy > 0.95

# %% [markdown]
# And the bare weights are a model like any other. Scoring them by hand gives the accuracy that the trainers printed:

# %%
right = forward(
    {name: np.asarray(values) for name, values in jax_weights.items()}, digits.test["image"].reshape(-1, 64)
)
assert (right.argmax(1) == digits.test["label"]).mean() == accuracy
