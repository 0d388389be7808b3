# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 5. Many devices, one result
#
# Parallel training has one contract: the numbers are those of one device. Which device holds what, and who talks to
# whom, is bookkeeping, and it can be learned on a laptop: JAX splits a CPU into as many virtual devices as you like,
# and PyTorch starts as many processes.

# %%
import math

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import crosstrain as ct

jax.config.update("jax_num_cpu_devices", 8)  # before anything asks for a device
assert ct.Accelerator("jax").device_count == 8  # it also gives XLA enough threads for them

# %% [markdown]
# ## Splitting the batch, by hand
#
# The gradient of a sum is the sum of the gradients. So every device differentiates the sum over its own examples, all
# add up (an *all-reduce*), and everybody divides by the same total. The classic bug divides too early: a mean of means
# is wrong as soon as the parts are unequal, and they are, in the last batch of an epoch and whenever sentences have
# different lengths.

# %%
digits = ct.data.digits().train
x, t = digits["image"].reshape(-1, 64).astype(np.float64), np.cos(digits["label"])
w = np.linspace(-1, 1, 64) / 8


def gradient_of_sum(x, t):
    return 2 * x.T @ (x @ w - t)  # of sum (xw - t)^2


parts = np.split(np.arange(len(x)), [300, 500, 1400])  # four devices, badly balanced
whole = gradient_of_sum(x, t) / len(x)
summed = sum(gradient_of_sum(x[part], t[part]) for part in parts) / len(x)
mean_of_means = sum(gradient_of_sum(x[part], t[part]) / len(part) for part in parts) / len(parts)
print(f"off by {np.abs(summed - whole).max():.1e}; the mean of means by {np.abs(mean_of_means - whole).max():.1e}")
assert np.allclose(summed, whole, rtol=1e-12, atol=1e-14)
assert not np.allclose(mean_of_means, whole, rtol=1e-2)

# %% [markdown]
# In JAX nobody writes the all-reduce. One says where arrays lie, and `jit` compiles a program for all devices that
# does what the same code does on one. In the compiled text it can be read:

# %%
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
over_devices = NamedSharding(mesh, PartitionSpec("data"))
with jax.enable_x64(True):
    rows = jax.device_put(x[:1432], over_devices), jax.device_put(t[:1432], over_devices)
    function = jax.jit(lambda x, t: 2 * x.T @ (x @ w - t))
    assert rows[0].addressable_shards[0].data.shape == (1432 // 8, 64)
    assert np.allclose(function(*rows), gradient_of_sum(x[:1432], t[:1432]), rtol=1e-10)
    assert "all-reduce" in function.lower(*rows).compile().as_text()

# %% [markdown]
# ## Splitting the model
#
# Eight copies of the weights, gradients and moments is a waste, and for a large model an impossible one. `fsdp` gives
# every device an eighth of each and gathers a block when it is its turn; `tensor` splits the matrices themselves, and
# each device computes with its part. Axes combine. A small Llama on the standard library's source, one byte a token:

# %%
text = ct.data.stdlib_bytes(max_bytes=30 * 33).reshape(30, 33).astype(np.int32)
source = {"tokens": text[:, :-1], "label": text[:, 1:]}  # three batches of 8 sequences, and one of 6
config = ct.models.GPTConfig(vocab_size=256, dim=64, n_layers=2, n_heads=4, max_seq_len=32)
AXES = ({"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2})


def train(backend, axes, source, config):
    """The losses of eight steps, the plan, and the bytes of weights that this process's first device really holds."""
    import crosstrain as ct  # this function is sent to other processes below, where it starts from nothing

    def loss_fn(model, batch, ops):
        return ops.cross_entropy(model(batch["tokens"]), batch["label"])

    accelerator = ct.Accelerator(backend, precision="fp64", seed=0, mesh=ct.MeshSpec(**axes))
    state = accelerator.prepare(ct.models.build("gpt", config, accelerator), ct.adamw(3e-3))
    step = accelerator.train_step(loss_fn, clip_norm=1.0)
    loader = accelerator.loader(source, batch_size=8, shuffle=True)  # of the global batch each process loads its part
    losses = [step(state, batch)["loss"] for _ in range(2) for batch in loader]
    return losses, state.sharding_plan, state.device_bytes.parameters


# %% [markdown]
# The reference is the other engine, on one device. The last batch has 6 sequences for 8 devices: the loader fills it
# up with sequences of weight 0, and the step divides by the weights of the *global* batch, so that nobody can tell.

# %%
reference, _, everything = train("torch", {"data": 1}, source, config)
print(
    f"torch, one device: loss {reference[0]:.6f} -> {reference[-1]:.6f}, {everything / 1024:.0f} KiB of float64 weights"
)
for axes in AXES:
    losses, plan, held = train("jax", axes, source, config)
    worst = np.abs(np.array(losses) / reference - 1).max()
    print(f"jax, {axes}: a device holds {held / 1024:.0f} KiB; losses differ by {worst:.1e}")
    assert worst < 1e-10
    assert held == 8 * plan.local_size  # what was planned before anything was allocated

# %% [markdown]
# The plan is data, made once in core and obeyed by both engines. Each row says which axis splits which dimension.
# Norms and biases that do not divide stay whole. Training needs four arrays of this size (weights, gradients and both
# moments of Adam), hence `copies=4`.

# %%
print(plan.table(bytes_per_element=8, copies=4))
wq = plan.params["layers.0.attention.wq.weight"]
assert wq.axes == (("tensor",), ("fsdp",))  # heads over tensor, the residual stream over fsdp
assert math.prod(wq.local_shape(plan.mesh)) == 64 * 64 // 4

# %% [markdown]
# ## Processes
#
# PyTorch has one process per device. `torchrun`, `crosstrain launch`, or from a notebook `notebook_launcher`: it sends
# the function to fresh processes, which meet through gloo here and NCCL on GPUs. Nothing in `train` knows about them:
# `batch_size` is still that of the global batch, of which the loader gives each process its part.

# %%
for axes in ({"data": 2}, {"data": 1, "fsdp": 2}):
    losses, plan, held = ct.notebook_launcher(train, ("torch", axes, source, config), processes=2, backend="torch")
    worst = np.abs(np.array(losses) / reference - 1).max()
    print(f"torch, two processes, {axes}: a process holds {held / 1024:.0f} KiB; losses differ by {worst:.1e}")
    assert worst < 1e-10
    assert held == 8 * plan.local_size

# %% [markdown]
# Where to go from here: `docs/meshes.md` has the other axes (sequence and pipeline), and `crosstrain plan` computes
# such tables, and the bytes that are sent, for chips that you do not have yet.
