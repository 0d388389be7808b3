"""Checkpoints: portable ones that either engine resumes from, and the native step directories of a run."""

from crosstrain.checkpoint.manifest import Manifest
from crosstrain.checkpoint.portable import Portable, Positioned, export, open_portable, restore, revive
from crosstrain.checkpoint.rules import Best
from crosstrain.checkpoint.saving import CheckpointSpec, Saver
from crosstrain.checkpoint.series import Checkpoints
from crosstrain.checkpoint.writer import Writer

__all__ = [
    "Best",
    "CheckpointSpec",
    "Checkpoints",
    "Manifest",
    "Portable",
    "Positioned",
    "Saver",
    "Writer",
    "export",
    "open_portable",
    "restore",
    "revive",
]
