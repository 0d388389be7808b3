"""Sources, data order, batching, transforms, and the data sets that every machine has."""

from crosstrain.data.cifar import cifar10
from crosstrain.data.colour import colour_jitter
from crosstrain.data.documents import pack, tokenise
from crosstrain.data.embedded import Split, digits, stdlib_bytes
from crosstrain.data.files import npy, text, tokens
from crosstrain.data.folders import ImageFolder, image_folder
from crosstrain.data.idx_files import idx, mnist
from crosstrain.data.images import cutout, flip, normalise, random_crop
from crosstrain.data.loader import Loader
from crosstrain.data.mixing import cutmix, mixup
from crosstrain.data.parquet_files import parquet
from crosstrain.data.records import array_record
from crosstrain.data.resizing import resize
from crosstrain.data.sources import Source, token_windows
from crosstrain.data.transform import Context, Transform, compose

__all__ = [
    "Context",
    "ImageFolder",
    "Loader",
    "Source",
    "Split",
    "Transform",
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
    "random_crop",
    "resize",
    "stdlib_bytes",
    "text",
    "token_windows",
    "tokenise",
    "tokens",
]
