"""Checkpoints: portable ones that either engine resumes from, and the native step directories of a run."""

from crosstrain.checkpoint.manifest import Manifest
from crosstrain.checkpoint.portable import Portable, Positioned, export, open_portable, restore
from crosstrain.checkpoint.series import Best, Checkpoints, Writer

__all__ = [
    "Best",
    "Checkpoints",
    "Manifest",
    "Portable",
    "Positioned",
    "Writer",
    "export",
    "open_portable",
    "restore",
]
