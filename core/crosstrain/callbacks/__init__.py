"""Callbacks of `Trainer.fit`: the base class with its ordered events, and the ones that come with crosstrain.

One file for each family. A callback is core only, so the same object works on both engines.
"""

from crosstrain.callbacks.base import EVENTS, Callback, Record, Run, Speed, emit

__all__ = ["EVENTS", "Callback", "Record", "Run", "Speed", "emit"]
