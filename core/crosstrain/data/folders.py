"""Image folders: one sub-folder per class, images decoded when they are asked for."""

from pathlib import Path
from typing import Any

import numpy as np

from crosstrain.data.files import PathLike, reading, require_package
from crosstrain.data.sources import Arrays, Source, stack_examples
from crosstrain.errors import DataError, require_count

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class ImageFolder(Source):
    """Images and their classes; see `image_folder`.

    Attributes:
        classes: names of the sub-folders, sorted; a label is the place in it.
        paths: of the images, sorted within their class.
        labels: int32, shape (N,).
    """

    def __init__(self, paths: list[Path], labels: np.ndarray, classes: list[str], size: Any, mode: str) -> None:
        self.paths, self.labels, self.classes = paths, labels, classes
        self._size, self._mode = size, mode

    def __len__(self) -> int:
        return len(self.paths)

    def gather(self, rows: np.ndarray) -> Arrays:
        """See `Source`."""
        return stack_examples([{"image": self._decode(int(row)), "label": self.labels[row]} for row in rows])

    def _decode(self, row: int) -> np.ndarray:
        from PIL import Image

        path = self.paths[row]
        with reading(path, "an image", "It is damaged; replace it, or remove it from the folder."):
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):  # pillow would cut all that is above 255 to it
                    raise DataError(
                        f"an image must have 8 bits for each channel, got {path} of pillow's mode {image.mode!r}. "
                        "Convert it, or read the folder by a source of your own."
                    )
                image.draft(self._mode, self._size)  # JPEG decodes at a fraction of its size, where that is enough
                decoded = image.convert(self._mode)
            if self._size is not None and decoded.size != self._size:
                decoded = decoded.resize(self._size, Image.Resampling.BILINEAR)
            pixels = np.asarray(decoded)
        return pixels if pixels.ndim == 3 else pixels[:, :, None]


def image_folder(path: PathLike, *, size: int | tuple[int, int] | None = None, channels: int = 3) -> ImageFolder:
    """Images in one sub-folder per class, decoded by pillow when a batch asks for them. Use `workers` in the loader.

    Args:
        path: the folder above the classes.
        size: side or (height, width) in pixels to which every image is resized (bilinear, antialiased, by pillow).
            None: all images have one size already.
        channels: 1 (grey), 3 or 4.

    Returns:
        A source of `image`: uint8, (B, H, W, channels), and `label`: int32, (B,); with `classes` and `paths`.

    Raises:
        DataError: no folder, no images, or pillow is not installed; an image that is damaged or of more than 8 bits for
            each channel, when it is asked for.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"path must be a folder with one sub-folder per class, got {root}.")
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise require_package("pillow", "image_folder", error) from error
    if channels not in _MODES:
        raise DataError(f"channels must be 1, 3 or 4, got channels={channels}.")
    if size is not None:
        size = size if isinstance(size, tuple) else (size, size)
        for side in size:
            require_count("size", side, DataError)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    paths = [[p for p in sorted(folder.rglob("*")) if p.suffix.lower() in _SUFFIXES] for folder in folders]
    if not any(paths):
        raise DataError(f"path must have images ({', '.join(sorted(_SUFFIXES))}) in sub-folders, got {root}.")
    empty = [folder.name for folder, found in zip(folders, paths, strict=True) if not found]
    if empty:
        raise DataError(f"every class must have images, got none in {', '.join(empty)} of {root}. Remove the folder.")
    labels = np.repeat(np.arange(len(folders), dtype=np.int32), [len(found) for found in paths])
    every = [file for found in paths for file in found]
    return ImageFolder(every, labels, [f.name for f in folders], size and size[::-1], _MODES[channels])
