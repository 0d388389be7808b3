# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 6. Why two ports differ
#
# Somebody ports a model from PyTorch to JAX, line by line. It runs, it learns, and its curve is a little worse. Every
# line *is* right: what differs is what the lines do not say. We look at the usual suspects one at a time, then put
# four of them into a port and let `crosstrain.parity` find them.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import crosstrain as ct
from crosstrain.parity import Port, assert_same_training, examine

digits = ct.data.digits().train
torch.manual_seed(0)

# %% [markdown]
# ## Suspect 1: where training starts
#
# `Linear` in torch starts with weights of standard deviation $1/\sqrt{3n}$ and random biases, in flax with $1/\sqrt n$
# and zeros. Another start is another run, but not another *algorithm*: whoever compares ports must copy the weights
# first. `parity` does.

# %%
torch_start = nn.Linear(256, 512).weight.detach().numpy().std()
flax_start = np.asarray(nnx.Linear(256, 512, rngs=nnx.Rngs(0)).kernel[...]).std()
print(
    f"initial standard deviation: flax {flax_start:.4f}, torch {torch_start:.4f}, ratio {flax_start / torch_start:.3f}"
)
assert abs(flax_start / torch_start - 3**0.5) < 0.02

# %% [markdown]
# ## Suspect 2: a function with two meanings
#
# GELU is $x\,\Phi(x)$. `jax.nn.gelu` is by default the approximation with tanh, torch's is exact. Four digits agree,
# which in a float32 curve looks like rounding, but rounding is a thousand times smaller.

# %%
line = np.linspace(-4, 4, 1001)
exact = torch.nn.functional.gelu(torch.tensor(line)).numpy()
with jax.enable_x64(True):
    tanh = np.abs(jax.nn.gelu(jnp.asarray(line)) - exact).max()
    erf = np.abs(jax.nn.gelu(jnp.asarray(line), approximate=False) - exact).max()
print(f"gelu: default off by {tanh:.1e}, approximate=False by {erf:.1e}")
assert erf < 1e-14 < 1e-4 < tanh < 1e-3

# %% [markdown]
# ## Suspects 3 and 4: norms
#
# LayerNorm divides by $\sqrt{\mathrm{var}+\epsilon}$ with $\epsilon$ = 1e-5 in torch and 1e-6 in flax. Where
# activations are of size 1 nobody notices; where they are small, $\epsilon$ is all there is.

# %%
row = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
in_torch, in_flax = nn.LayerNorm(64), nnx.LayerNorm(64, rngs=nnx.Rngs(0))
off = {s: np.abs(in_torch(torch.tensor(s * row)).detach().numpy() - in_flax(s * row)).max() for s in (1.0, 1e-3)}
print(f"LayerNorm: differs by {off[1.0]:.1e} for inputs of size 1, by {off[1e-3]:.1e} for inputs of size 0.001")
assert off[1.0] < 1e-4 < 0.1 < off[1e-3]

# %% [markdown]
# BatchNorm's momentum: torch's 0.1 is the share of the *new* statistics, flax's 0.99 that of the *old*. And torch
# divides the running variance by $n-1$, flax by $n$. Neither touches the training loss, which uses the statistics of
# the batch. Both wait for the day of the evaluation.

# %%
batch = np.random.default_rng(1).normal(2.0, 3.0, size=(16, 1)).astype(np.float32)
in_torch, in_flax = nn.BatchNorm1d(1), nnx.BatchNorm(1, momentum=0.9, use_running_average=False, rngs=nnx.Rngs(0))
assert np.allclose(in_torch(torch.tensor(batch)).detach().numpy(), in_flax(batch), atol=1e-5)  # training: the same
assert np.allclose(in_torch.running_mean, in_flax.mean[...], rtol=1e-5)  # 0.1 is 0.9
new = [(float(each) - 0.9) / 0.1 for each in (in_torch.running_var, in_flax.var[0])]  # what went into the averages
print(f"running variance: torch takes in {new[0]:.4f}, flax {new[1]:.4f}; n / (n - 1) = {16 / 15:.4f}")
assert np.isclose(new[0] / new[1], 16 / 15, rtol=1e-4)

# %% [markdown]
# ## The line-up
#
# A convolutional network and its port. With the frameworks' defaults it contains the four differences from above.


# %%
class TorchNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 32)
        self.ln = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, image):  # (B, H, W, 1); torch wants the channels before H and W
        x = torch.relu(self.bn(self.conv(image.permute(0, 3, 1, 2)))).mean((2, 3))
        return self.head(self.ln(nn.functional.gelu(self.fc(x))))


class FlaxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 8, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(8, rngs=rngs)
        self.fc = nnx.Linear(8, 32, rngs=rngs)
        self.ln = nnx.LayerNorm(32, rngs=rngs)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, image):
        x = jax.nn.relu(self.bn(self.conv(image))).mean((1, 2))
        return self.head(self.ln(jax.nn.gelu(self.fc(x))))


def torch_model():
    torch.manual_seed(0)
    return TorchNet()


def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["image"]), batch["label"])


def batches(step):
    rows = ct.random.permutation(0, step, len(digits["label"]))[:32]
    return {name: values[rows] for name, values in digits.items()}


port = Port(
    torch_model=torch_model,
    jax_model=lambda: FlaxNet(nnx.Rngs(0)),
    torch_loss=loss_fn,
    jax_loss=loss_fn,
    batches=batches,
    optimizer=ct.adamw(ct.cosine(3e-3, 20, warmup_steps=2)),
    total_steps=20,
)

# %% [markdown]
# `examine` pairs the parameters, copies the weights, and compares every layer, gradient, update and statistic in
# float64, at several points of the schedule. Each difference has a place and a probable cause; the first in causal
# order is where to look. Then it *tries* the fixes that it knows, and keeps those that help.

# %%
report = examine(port, free_steps=5, low_precision=False)
places = {}
for finding in report.verdict.findings:
    if finding.where not in places and finding.channel in ("settings", "activation"):
        places[finding.where] = finding
        print(finding)
assert not report.same
assert {"bn.momentum", "ln.eps", "between fc and ln", "bn.running_var"} <= set(places)

# %%
for fix in report.fixes:
    outcome = "closes the gap" if fix.closes else "helps" if fix.helps else "does not help"
    print(f"{fix.text}: {outcome} (loss difference {fix.before:.1e} -> {fix.after:.1e})")
assert [fix.helps for fix in report.fixes].count(True) == 4
assert report.fixed.same_algorithm

# %% [markdown]
# With momentum, eps and GELU repaired the losses are equal to sixteen digits, and the port is *still wrong*, because
# no training loss sees the running variance. A comparison of curves would have ended here.
#
# That is the method: fix the meaning in float64, give chance a key, measure rounding against itself, and ask for the
# first difference instead of believing curves. In a test suite `assert_same_training(port)` does so in one line:

# %%
try:
    assert_same_training(port, free_steps=3)
except AssertionError as error:
    print(str(error).splitlines()[0], "\n ", str(error).splitlines()[1].strip())
else:
    raise AssertionError("a port with four differences must not pass")
