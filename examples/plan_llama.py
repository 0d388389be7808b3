"""Llama 3 8B with AdamW in bfloat16 over float32 weights, to be planned before it is paid for.

    crosstrain plan examples/plan_llama.py --topology v5p:4x4x8 --mesh fsdp=128
    crosstrain plan examples/plan_llama.py --topology v5e:16x16 --sweep

Nothing here is as large as the model: a plan makes shapes only.
"""

import dataclasses

import numpy as np

import crosstrain as ct

BATCH, LENGTH = 256, 2048

config = dataclasses.replace(ct.models.PRESETS["llama3-8b"], max_seq_len=LENGTH, scan_layers=True)
optimizer = ct.adamw(ct.cosine(3e-4, 100_000), weight_decay=0.1)
precision = "bf16"
step_options = {"clip_norm": 1.0, "remat": "full"}


def loss_fn(model, batch, ops):
    return ops.cross_entropy(model(batch["tokens"]), batch["labels"])


def batches(step):
    return {name: np.zeros((BATCH, LENGTH), np.int32) for name in ("tokens", "labels")}
