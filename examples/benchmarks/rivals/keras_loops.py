"""Keras 3 with its own layers, `compile` and `fit`; the backend is chosen before Keras is imported."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from rivals.workloads import DECAY, MOMENTUM, PEAK, RATE, WORKLOADS

Block = Callable[[int], float]


def fit_jax(name: str) -> Block:
    """On JAX."""
    return _fit(name, "jax")


def fit_torch(name: str) -> Block:
    """On torch."""
    return _fit(name, "torch")


def _mlp(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential([keras.Input((64,)), layers.Dense(128, activation="relu"), layers.Dense(10)])


def _resnet9(keras: Any) -> Any:
    layers = keras.layers

    def block(x: Any, width: int, *, pool: bool = False) -> Any:
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
        return layers.MaxPooling2D(2)(x) if pool else x

    image, w = keras.Input((32, 32, 3)), 16
    x = block(block(image, w), 2 * w, pool=True)
    x = layers.Add()([x, block(block(x, 2 * w), 2 * w)])
    x = block(block(x, 4 * w, pool=True), 8 * w, pool=True)
    x = layers.Add()([x, block(block(x, 8 * w), 8 * w)])
    x = layers.Dense(10, use_bias=False)(layers.GlobalMaxPooling2D()(x))
    return keras.Model(image, layers.Rescaling(0.125)(x))


def _fit(name: str, backend: str) -> Block:
    os.environ["KERAS_BACKEND"] = backend
    import keras

    model = _mlp(keras) if name == "mlp" else _resnet9(keras)
    if name == "mlp":
        optimizer = keras.optimizers.AdamW(RATE, weight_decay=DECAY)
    else:
        # Keras has no one-cycle schedule; a constant rate costs no more.
        optimizer = keras.optimizers.SGD(PEAK, momentum=MOMENTUM, nesterov=True)
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    workload = WORKLOADS[name]
    inputs, labels = (np.concatenate(each) for each in zip(*workload.batches(), strict=True))

    def block(steps: int) -> float:
        repeats = -(-steps * workload.batch // len(inputs))
        x, y = (np.concatenate([each] * repeats)[: steps * workload.batch] for each in (inputs, labels))
        return model.fit(x, y, batch_size=workload.batch, epochs=1, shuffle=False, verbose=0).history["loss"][-1]

    return block
