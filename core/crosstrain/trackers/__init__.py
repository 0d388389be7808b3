"""Trackers: where a run's numbers go. `Trainer(trackers=[ct.trackers.JsonLines("run.jsonl")])`.

Files need no library. The others are thin: each calls its own library, and is refused when that is not installed.
"""

from crosstrain.trackers.base import Tracker, Tracking, hyperparameters, settings
from crosstrain.trackers.files import Csv, JsonLines
from crosstrain.trackers.libraries import Aim, MLflow, TensorBoard, Trackio, WandB

__all__ = [
    "Aim",
    "Csv",
    "JsonLines",
    "MLflow",
    "TensorBoard",
    "Tracker",
    "Tracking",
    "Trackio",
    "WandB",
    "hyperparameters",
    "settings",
]
