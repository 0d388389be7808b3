"""Sources, data order, batching, and the data sets that every machine has."""

from crosstrain.data.embedded import Split, digits, stdlib_bytes
from crosstrain.data.loader import Loader
from crosstrain.data.sources import Source, token_windows

__all__ = ["Loader", "Source", "Split", "digits", "stdlib_bytes", "token_windows"]
