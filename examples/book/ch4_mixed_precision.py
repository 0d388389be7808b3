# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 4. Mixed precision: what may be short, and what may not
#
# Half as many bits are half the memory traffic and, on matrix units, several times the arithmetic. The art is in the
# word *mixed*: products are computed in 16 bits, and the few things that would break stay in 32. We break each of them
# on purpose. A float has bits for its range (exponent) and for its digits (fraction), and the two 16-bit formats
# differ:

# %%
import jax
import jax.numpy as jnp
import numpy as np
import torch

import crosstrain as ct

for name in ("float32", "float16", "bfloat16"):
    info = jnp.finfo(name)
    print(
        f"{name:>8}: {info.nexp} + {info.nmant} bits, spacing at 1 {float(info.eps):.1e}, "
        f"normal from {float(info.tiny):.1e} to {float(info.max):.1e}"
    )
assert jnp.finfo("bfloat16").nexp == jnp.finfo("float32").nexp  # bfloat16 is a float32 with its last 16 bits cut off
assert float(jnp.finfo("float16").max) == 65504.0  # float16 has three more bits of fraction and hardly any range

# %% [markdown]
# ## Break 1: the update vanishes
#
# A weight of 1 and a hundred updates of 0.001. The neighbours of 1 in bfloat16 are 0.004 below and 0.008 above: every
# update is rounded off. **Weights and moments stay in float32**; 16-bit weights are a copy for the products.

# %%
short, master = torch.tensor(1.0, dtype=torch.bfloat16), torch.tensor(1.0)
for _ in range(100):
    short, master = short - 0.001, master - 0.001
print(f"after 100 updates: bfloat16 {short.item()}, float32 {master.item():.4f}")
assert short.item() == 1.0
assert abs(master.item() - 0.9) < 1e-5

# %% [markdown]
# ## Break 2: the sum stands still
#
# Add 1 four thousand times, and it stops at 256, whose neighbour is 258. **Sums stay in float32**: those inside a
# matrix product, statistics of norms, the mean of a loss. Both frameworks' `sum()` does so, and rounds the result.

# %%
total = torch.tensor(0.0, dtype=torch.bfloat16)
for _ in range(4096):
    total = total + 1
assert total.item() == 256.0
assert torch.ones(4096, dtype=torch.bfloat16).sum().item() == 4096.0 == float(jnp.ones(4096, "bfloat16").sum())

# %% [markdown]
# ## Break 3: the exponential overflows
#
# A logit of 12 is nothing unusual. **Softmax and losses stay in float32**, whose exponentials reach 88.

# %%
with np.errstate(over="ignore"):
    assert np.isinf(np.exp(np.float16(12)))
assert np.isfinite(np.exp(np.float32(12)))

# %% [markdown]
# ## Break 4: the gradient underflows (float16 only)
#
# The gradient at the logits is $(p - y)/N$: small when the batch is large, smaller when the model is good. Below 6e-5
# float16 loses digits, and below 6e-8 everything. We train an MLP a little, and ask each format for that gradient.

# %%
digits = ct.data.digits()
config = ct.models.MLPConfig()
x, labels = digits.train["image"].reshape(-1, 64), digits.train["label"]


def loss_at(w, nudge, dtype, scale=1.0):
    w = jax.tree.map(lambda each: each.astype(dtype), w)  # copies; the gradient comes back in the type of the originals
    hidden = jax.nn.relu(x.astype(dtype) @ w["layers.0.weight"].T + w["layers.0.bias"])
    # The nudge is zeros, and its gradient is that of the logits.
    logits = hidden @ w["layers.1.weight"].T + w["layers.1.bias"] + nudge
    return scale * -jax.nn.log_softmax(logits.astype("float32"))[jnp.arange(len(labels)), labels].mean()


gradients = jax.jit(jax.grad(loss_at, argnums=(0, 1)), static_argnums=2)


def zeros(dtype):
    return jnp.zeros((len(labels), 10), dtype)


w = {name: jnp.asarray(values, "float32") for name, values in config.initial_weights(0).items()}
for _ in range(100):
    w = jax.tree.map(lambda value, slope: value - 0.5 * slope, w, gradients(w, zeros("float32"), "float32")[0])
lost = {}
for dtype, scale in (("float32", 1.0), ("bfloat16", 1.0), ("float16", 1.0), ("float16", 2.0**12)):
    lost[dtype, scale] = float((gradients(w, zeros(dtype), dtype, scale)[1] == 0).mean())
    print(f"{dtype:>8}, loss times {scale:4.0f}: {lost[dtype, scale]:6.1%} of the gradient at the logits is exactly 0")
assert lost["float32", 1.0] == lost["bfloat16", 1.0] == 0.0
assert lost["float16", 1.0] > 0.2
assert lost["float16", 2.0**12] < 0.1 * lost["float16", 1.0]

# %% [markdown]
# **Loss scaling** multiplies the loss by a power of two, which costs no digits, and divides the float32 gradient by
# it. As large as goes: when a gradient is infinite, skip the step and halve the scale; after many good ones, double
# it. That is torch's `GradScaler`. Ours is six lines of JAX, and both come down from a silly start over the same
# steps:

# %%
scale, ours = 2.0**30, []
while len(ours) < 12:
    ours.append(scale)
    scaled = gradients(w, zeros("float16"), "float16", scale)[0]
    if not all(bool(jnp.isfinite(each).all()) for each in scaled.values()):
        scale /= 2  # and the weights do not move

net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
for parameter, name in zip(net.parameters(), config.parameters(), strict=True):
    parameter.data = torch.tensor(np.asarray(w[name]))
standing = torch.optim.SGD(net.parameters(), lr=0.0)
scaler, theirs = torch.amp.GradScaler("cpu", init_scale=2.0**30), []
while len(theirs) < 12:
    theirs.append(scaler.get_scale())
    standing.zero_grad()
    with torch.autocast("cpu", torch.float16):
        logits = net(torch.tensor(x))
    scaler.scale(torch.nn.functional.cross_entropy(logits.float(), torch.tensor(labels).long())).backward()
    scaler.step(standing)
    scaler.update()
print("log2 of the scale:", np.log2(ours).astype(int), "ours,", np.log2(theirs).astype(int), "torch's")
assert ours == theirs
assert ours[-1] == ours[-2] > 1.0

# %% [markdown]
# ## What crosstrain does
#
# `precision="bf16"`: bfloat16 products, breaks 1 to 3 in float32, and no loss scaling, for bfloat16 has the range of
# float32. The loss function looks at the types while it runs:


# %%
def loss_fn(model, batch, ops):
    logits = model(batch["image"])
    loss = ops.cross_entropy(logits, batch["label"])
    seen.update(logits=str(logits.dtype), loss=str(loss.sum.dtype))
    return loss, {"accuracy": ops.accuracy(logits, batch["label"])}


def error(found, exact):
    return max(float(np.abs(found[name] - exact[name]).max() / np.abs(exact[name]).max()) for name in exact)


found = {}
for backend in ("jax", "torch"):
    for precision in ("fp64", "fp32", "bf16"):
        seen = {}
        accelerator = ct.Accelerator(backend, precision=precision)
        state = accelerator.prepare(ct.models.build("mlp", config, accelerator), ct.adamw(3e-3))
        first = accelerator.value_and_grad(loss_fn)(state, digits.train)[1].to_host()
        trainer = ct.Trainer(accelerator, state, loss_fn, progress=False)
        trainer.fit(accelerator.loader(digits.train, batch_size=64, shuffle=True), epochs=8)
        accuracy = trainer.evaluate(accelerator.loader(digits.test, batch_size=359))["accuracy"]
        weights = state.snapshot().params["layers.0.weight"].dtype
        found[backend, precision] = first, accuracy
        off = error(first, found["jax", "fp64"][0])
        print(
            f"{backend:>5} {precision}: weights {weights}, {seen}; gradient off by {off:.1e}, accuracy {accuracy:.4f}"
        )
        assert off < {"fp64": 1e-12, "fp32": 1e-5, "bf16": 3e-2}[precision]
        if precision == "bf16":
            assert str(weights) == "float32"
            assert "bfloat16" in seen["logits"]
            assert "float32" in seen["loss"]
            assert off > 1e-4  # three digits, not seven
            assert abs(accuracy - found[backend, "fp64"][1]) < 0.02  # and nobody minds
