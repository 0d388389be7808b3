"""Checkpoints: portable ones that either engine resumes from, and the step directories of a run."""

from crosstrain.checkpoint.portable import Portable, Positioned, export, open_portable, restore

__all__ = ["Portable", "Positioned", "export", "open_portable", "restore"]
