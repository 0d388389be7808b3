"""Callbacks of `Trainer.fit`: the base class with its ordered events, and the ones that come with crosstrain.

One file for each family. A callback is core only, so the same object works on both engines.
"""

from crosstrain.callbacks.base import EVENTS, Callback, Record, Run, Speed, emit
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
    "emit",
]
