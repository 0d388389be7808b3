# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 1. A tensor program on two engines
#
# The smallest program worth differentiating is one matrix product, one softmax and one gradient: logistic regression.
# We write it in NumPy, JAX and PyTorch, and then look hard at the last digits: whoever cannot say why two *correct*
# programs differ cannot say that a third one is wrong.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import torch

import crosstrain as ct

digits = ct.data.digits().train  # 1438 images of 8x8 pixels, which scikit-learn has put on your disk
x = digits["image"].reshape(-1, 64).astype(np.float64)
y = np.eye(10)[digits["label"]]  # one-hot, (N, 10)
w = np.random.default_rng(0).normal(size=(64, 10)) / 8


def gap(a, b):
    """The largest difference, relative to the largest value."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.abs(a - b).max() / np.abs(a).max()


# %% [markdown]
# ## The gradient by hand
#
# $p = \mathrm{softmax}(xw)$ and $L = -\frac1N\sum y\log p$. The derivative of softmax followed by cross-entropy is the
# famous short one, $p - y$, so the gradient is $\frac1N x^T (p - y)$. Subtracting the largest logit changes nothing
# but keeps `exp` from overflowing.


# %%
def by_hand(x, y, w):
    logits = x @ w
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return -(y * np.log(p)).sum(1).mean(), x.T @ (p - y) / len(x)


loss, gradient = by_hand(x, y, w)
print(f"by hand: loss {loss:.12f}")

# %% [markdown]
# ## The gradient by machine, twice
#
# JAX **transforms functions**: `value_and_grad` takes a pure function and returns another one. PyTorch **records a
# tape**: `w` is told that somebody will ask, every operation notes how to go back, and `backward()` walks the notes.
# Two designs, and one calculus: reverse-mode differentiation.


# %%
def in_jax(x, y, w):
    def loss_fn(w, x, y):
        return -(y * jax.nn.log_softmax(x @ w)).sum(1).mean()

    return jax.value_and_grad(loss_fn)(jnp.asarray(w), x, y)


def in_torch(x, y, w):
    x, y, w = (torch.tensor(each) for each in (x, y, w))
    w.requires_grad_()
    loss = -(y * torch.log_softmax(x @ w, dim=1)).sum(1).mean()
    loss.backward()
    return loss.detach(), w.grad


with jax.enable_x64(True):  # without it JAX turns float64 into float32, and says nothing
    for engine in (in_jax, in_torch):
        its_loss, its_gradient = engine(x, y, w)
        print(
            f"{engine.__name__}: loss off by {gap(loss, its_loss):.1e}, gradient by {gap(gradient, its_gradient):.1e}"
        )
        assert gap(loss, its_loss) < 1e-14
        assert gap(gradient, its_gradient) < 1e-13

# %% [markdown]
# In float64 the three are equal, up to a few units in the last of sixteen digits. That is the test that the programs
# *mean* the same. Now in float32, where everybody trains:

# %%
x32, y32, w32 = (each.astype(np.float32) for each in (x, y, w))
exact = by_hand(*(each.astype(np.float64) for each in (x32, y32, w32)))[1]  # same inputs, sixteen digits
jax32, torch32 = in_jax(x32, y32, w32)[1], in_torch(x32, y32, w32)[1]
print(f"float32: jax against torch {gap(jax32, torch32):.1e}")
print(f"         jax against the truth {gap(exact, jax32):.1e}, torch against the truth {gap(exact, torch32):.1e}")
assert not np.array_equal(jax32, torch32)
assert max(gap(exact, jax32), gap(exact, torch32)) < 1e-5

# %% [markdown]
# Neither is right, and neither is wrong. Floating-point addition rounds after every step, so $(a+b)+c \neq a+(b+c)$,
# and libraries choose their own order: blocks that fit a cache, lanes of a vector unit. Here is one of the very sums
# that the gradient is made of, added up in four orders:

# %%
terms = (x32[:, 20] * (0.1 - y32[:, 3])).astype(np.float32)
orders = {
    "first to last": np.add.accumulate(terms)[-1],
    "last to first": np.add.accumulate(terms[::-1])[-1],
    "smallest first": np.add.accumulate(terms[np.argsort(np.abs(terms))])[-1],
    "in halves": terms.sum(),  # NumPy's own: pairwise
}
truth = terms.astype(np.float64).sum()
for order, total in orders.items():
    print(f"{order:>14}: {total:.9g}  (off by {abs(total - truth) / np.abs(terms).sum():.1e} of the sum of magnitudes)")
assert len(set(orders.values())) > 1
assert all(abs(total - truth) < 1e-5 * np.abs(terms).sum() for total in orders.values())

# %% [markdown]
# So the fair question about two engines is: do they differ by more than *one* engine differs from itself when only the
# order changes? Shuffling the examples changes no mean and no gradient, only the order of sums.

# %%
shuffled = ct.random.permutation(0, 0, len(x))
itself = gap(torch32, in_torch(x32[shuffled], y32[shuffled], w32)[1])
print(f"torch against torch with shuffled examples: {itself:.1e}; against jax: {gap(torch32, jax32):.1e}")
assert gap(torch32, jax32) < 10 * itself

# %% [markdown]
# ## Randomness is not rounding
#
# The other reason for two curves is chance. Both frameworks have good generators, and they are different ones: torch's
# numbers depend on what was drawn *before* (a state that moves), JAX's on a key that you pass (a function).

# %%
torch.manual_seed(0)
first = torch.randn(3).numpy()
later = torch.randn(3).numpy()  # the same call: the state has moved
key = jax.random.key(0)
assert not np.allclose(first, later)
assert np.array_equal(jax.random.normal(key, 3), jax.random.normal(key, 3))  # the same key: the same numbers
assert not np.allclose(first, jax.random.normal(key, 3))  # the same seed, another generator

# %% [markdown]
# crosstrain takes the functional view on both engines. Initial weights are a function of (seed, parameter), dropout
# masks of (seed, step, layer, example). So two models start from the same bits and drop the same units:


# %%
def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["image"]), batch["label"])


losses, starts = {}, {}
for dropout in (0.0, 0.5):
    for name in ("jax", "torch"):
        accelerator = ct.Accelerator(name, precision="fp64", seed=0)
        model = ct.models.build("mlp", ct.models.MLPConfig(dropout=dropout), accelerator)
        state = accelerator.prepare(model, ct.sgd(0.1))
        starts[name] = state.snapshot().params["layers.0.weight"]
        losses[name, dropout] = accelerator.train_step(loss_fn)(state, digits)["loss"]
        print(f"dropout {dropout}, {name:>5}: loss {losses[name, dropout]:.15f}")
assert np.array_equal(starts["jax"], starts["torch"])  # bit for bit
assert gap(losses["jax", 0.5], losses["torch", 0.5]) < 1e-14
assert gap(losses["jax", 0.0], losses["jax", 0.5]) > 1e-3  # the masks really did something

# %% [markdown]
# With meaning pinned in float64, chance pinned by keys, and rounding measured against itself, any difference that is
# left is a *finding*.
