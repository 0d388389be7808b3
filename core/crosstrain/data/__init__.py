"""Sources, data order, batching, transforms, and the data sets that every machine has.

File formats and transforms are imported when they are first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from crosstrain.data.embedded import Split, digits, stdlib_bytes
from crosstrain.data.loader import Loader
from crosstrain.data.sources import Source, token_windows
from crosstrain.data.transform import Context, Transform, compose

if TYPE_CHECKING:
    from crosstrain.data.cifar import cifar10
    from crosstrain.data.colour import colour_jitter
    from crosstrain.data.documents import pack, tokenise
    from crosstrain.data.files import npy, text, tokens
    from crosstrain.data.folders import ImageFolder, image_folder
    from crosstrain.data.idx_files import idx, mnist
    from crosstrain.data.images import alternating_flip, cutout, flip, normalise, random_crop, translate
    from crosstrain.data.mixing import cutmix, mixup
    from crosstrain.data.parquet_files import parquet
    from crosstrain.data.phases import Batches, Phase, PhasedLoader, progressive
    from crosstrain.data.records import array_record
    from crosstrain.data.resizing import resize
    from crosstrain.data.viewing import Views, views
    from crosstrain.data.whitening import whitening_filters

_MODULES = {
    "cifar": ("cifar10",),
    "colour": ("colour_jitter",),
    "documents": ("pack", "tokenise"),
    "files": ("npy", "text", "tokens"),
    "folders": ("ImageFolder", "image_folder"),
    "idx_files": ("idx", "mnist"),
    "images": ("alternating_flip", "cutout", "flip", "normalise", "random_crop", "translate"),
    "mixing": ("cutmix", "mixup"),
    "parquet_files": ("parquet",),
    "phases": ("Batches", "Phase", "PhasedLoader", "progressive"),
    "records": ("array_record",),
    "resizing": ("resize",),
    "viewing": ("Views", "views"),
    "whitening": ("whitening_filters",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Batches",
    "Context",
    "ImageFolder",
    "Loader",
    "Phase",
    "PhasedLoader",
    "Source",
    "Split",
    "Transform",
    "Views",
    "alternating_flip",
    "array_record",
    "cifar10",
    "colour_jitter",
    "compose",
    "cutmix",
    "cutout",
    "digits",
    "flip",
    "idx",
    "image_folder",
    "mixup",
    "mnist",
    "normalise",
    "npy",
    "pack",
    "parquet",
    "progressive",
    "random_crop",
    "resize",
    "stdlib_bytes",
    "text",
    "token_windows",
    "tokenise",
    "tokens",
    "translate",
    "views",
    "whitening_filters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
