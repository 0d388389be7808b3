"""An epoch of CIFAR-sized images: reflecting crop, flip, normalise, and the labels. A step is a batch that is ready."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rivals.workloads import LOADER

Block = Callable[[int], float]
COUNT, PADDING, SIZE, BATCH = 16_384, 4, 32, LOADER.batch
MEAN, STD = (np.array(each, np.float32) for each in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))


def _data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8), random.integers(0, 10, COUNT, np.int32)


def _endless(epoch: Callable[[], Iterator[Any]], wait: Callable[[Any], Any] = lambda batch: batch) -> Block:
    batches = itertools.chain.from_iterable(epoch() for _ in itertools.count())

    def block(steps: int) -> float:
        for batch in itertools.islice(batches, steps):  # noqa: B007
            pass
        wait(batch)
        return 0.0

    return block


def numpy_batches(_: str) -> Block:
    """Whole batches by NumPy: a strided view of all crops, gathered."""
    images, labels = _data()
    random = np.random.default_rng(1)
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIZE, SIZE), axis=(1, 2))

    def epoch() -> Iterator[Any]:
        order = random.permutation(COUNT)
        for start in range(0, COUNT, BATCH):
            rows = order[start : start + BATCH]
            top, left = random.integers(0, 2 * PADDING + 1, (2, BATCH))
            crops = windows[rows, top, left].transpose(0, 2, 3, 1)
            flips = random.random(BATCH) < 0.5
            crops = np.where(flips[:, None, None, None], crops[:, :, ::-1], crops)
            yield (crops * (1 / 255 / STD) - MEAN / STD).astype(np.float32), labels[rows]

    return _endless(epoch)


def jax_on_device(_: str) -> Block:
    """Everything on the device, in one compiled function."""
    import jax
    import jax.numpy as jnp

    images, labels = (jax.device_put(each) for each in _data())
    random = np.random.default_rng(1)

    @jax.jit
    def batch(images: Any, labels: Any, rows: Any, offsets: Any, flips: Any) -> Any:
        picked = jnp.pad(images[rows], ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
        crop = jax.vmap(lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (SIZE, SIZE, 3)))
        crops = crop(picked, offsets)
        crops = jnp.where(flips[:, None, None, None], crops[:, :, ::-1], crops)
        return crops * (1 / 255 / STD) - MEAN / STD, labels[rows]

    def epoch() -> Iterator[Any]:
        order = random.permutation(COUNT)
        for start in range(0, COUNT, BATCH):
            offsets, flips = random.integers(0, 2 * PADDING + 1, (BATCH, 2)), random.random(BATCH) < 0.5
            yield batch(images, labels, order[start : start + BATCH], offsets, flips)

    return _endless(epoch, jax.block_until_ready)


def _example(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    padded = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
    top, left = random.integers(0, 2 * PADDING + 1, 2)
    crop = padded[top : top + SIZE, left : left + SIZE]
    crop = crop[:, ::-1] if random.random() < 0.5 else crop
    return crop * (1 / 255 / STD) - MEAN / STD


def torch_loader(_: str) -> Block:
    """A map-style data set and a `DataLoader` with two workers."""
    import torch

    images, labels = _data()

    class Examples(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.random = np.random.default_rng(1)

        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, index: int) -> Any:
            return _example(images[index], self.random), labels[index]

    options = {"batch_size": BATCH, "shuffle": True, "num_workers": 2, "persistent_workers": True}
    loader = torch.utils.data.DataLoader(Examples(), **options)
    return _endless(lambda: iter(loader))


def grain_loader(_: str) -> Block:
    """https://google-grain.readthedocs.io: a source, `random_map`, `batch`, and the threads that read ahead."""
    import grain

    images, labels = _data()
    data = grain.MapDataset.range(COUNT).seed(1).shuffle()
    data = data.random_map(lambda index, random: (_example(images[index], random), labels[index])).batch(BATCH)
    return _endless(lambda: iter(data.to_iter_dataset()))


def _crosstrain(engine: str, where: str, *, resident: bool = False) -> Block:
    import crosstrain as ct

    images, labels = _data()
    accelerator = ct.Accelerator(engine)
    change = ct.data.compose(
        ct.data.random_crop(PADDING), ct.data.flip(), ct.data.normalise(tuple(MEAN.tolist()), tuple(STD.tolist()))
    )
    source: Any = {"image": images, "label": labels}
    source = accelerator.resident(source) if resident else source
    loader = accelerator.loader(source, batch_size=BATCH, shuffle=True, transform=change, transform_on=where)
    return _endless(lambda: iter(loader), lambda _: accelerator.synchronize())


def jax_host(_: str) -> Block:
    """crosstrain's transforms on the host."""
    return _crosstrain("jax", "host")


def jax_device(_: str) -> Block:
    """crosstrain's transforms on the device."""
    return _crosstrain("jax", "device")


def jax_resident(_: str) -> Block:
    """The images are on the device too."""
    return _crosstrain("jax", "device", resident=True)


def torch_host(_: str) -> Block:
    """crosstrain's transforms on the host."""
    return _crosstrain("torch", "host")


def torch_device(_: str) -> Block:
    """crosstrain's transforms on the device."""
    return _crosstrain("torch", "device")


def torch_resident(_: str) -> Block:
    """The images are on the device too."""
    return _crosstrain("torch", "device", resident=True)
