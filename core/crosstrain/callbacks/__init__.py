"""Callbacks of `Trainer.fit`: the base class with its ordered events, and the ones that come with crosstrain.

One file for each family. A callback is core only, so the same object works on both engines.
"""

import importlib
from typing import TYPE_CHECKING, Any

from crosstrain.callbacks.base import EVENTS, Callback, Record, Run, Speed, listeners

if TYPE_CHECKING:
    from crosstrain.callbacks.best import Averaged, BestModel
    from crosstrain.callbacks.model_card import ModelCard
    from crosstrain.callbacks.outer import OuterSteps
    from crosstrain.callbacks.profiler import Profile
    from crosstrain.callbacks.recorder import Recorder
    from crosstrain.callbacks.samples import Predictions, TextSamples
    from crosstrain.callbacks.statistics import LayerStatistics, Moments, Statistics
    from crosstrain.callbacks.stopping import EarlyStopping, NanGuard, TimeBudget
    from crosstrain.callbacks.throughput import Mfu

__all__ = [
    "EVENTS",
    "Averaged",
    "BestModel",
    "Callback",
    "EarlyStopping",
    "LayerStatistics",
    "Mfu",
    "ModelCard",
    "Moments",
    "NanGuard",
    "OuterSteps",
    "Predictions",
    "Profile",
    "Record",
    "Recorder",
    "Run",
    "Speed",
    "Statistics",
    "TextSamples",
    "TimeBudget",
    "listeners",
]

# `import crosstrain` brings the base alone.
_HOMES = {
    "Averaged": "best",
    "BestModel": "best",
    "EarlyStopping": "stopping",
    "LayerStatistics": "statistics",
    "Mfu": "throughput",
    "ModelCard": "model_card",
    "Moments": "statistics",
    "NanGuard": "stopping",
    "OuterSteps": "outer",
    "Predictions": "samples",
    "Profile": "profiler",
    "Recorder": "recorder",
    "Statistics": "statistics",
    "TextSamples": "samples",
    "TimeBudget": "stopping",
}


def __getattr__(name: str) -> Any:
    """A callback's file is imported when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
