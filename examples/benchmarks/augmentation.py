"""How fast a batch of CIFAR-sized images is augmented: crop, flip, normalise, against three other ways of doing it.

All work on one thread and on the same 50,000 random images of 32 x 32 x 3 bytes, in batches of 512:
crosstrain's batch-wise transforms, whose random numbers belong to the example; the same operations in a Python loop
over the examples, as a map-style data set does them; and vectorised torch ops on (B, C, H, W), once as
`grid` of gathered indices and once with one crop for the whole batch (which is less random than the others).

Then crosstrain's loaders on both engines, with the transforms on the host and on the device. Where the device is the
CPU, as here without a GPU, both have the same processor. Times are those of the processor, so that other programs on a
busy machine do not count; on a GPU read the clock instead.

    python examples/benchmarks/augmentation.py
"""

import statistics
import time

import numpy as np
import torch

import crosstrain as ct
from crosstrain.data.transform import Context

COUNT, BATCH, PADDING = 50_000, 512, 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)

transform = ct.data.compose(ct.data.random_crop(PADDING), ct.data.flip(), ct.data.normalise(MEAN, STD))


def crosstrain(images, first):
    context = Context(seed=0, epoch=0, examples=np.arange(first, first + len(images)))
    return transform.apply({"image": images}, context)["image"]


def loop(images, first):
    rng = np.random.default_rng(first)
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    examples = []
    for image in images:
        padded = np.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)), mode="reflect")
        top, left = rng.integers(0, 2 * PADDING + 1, 2)
        crop = padded[top : top + 32, left : left + 32]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        examples.append((crop.astype(np.float32) / 255 - mean) / std)
    return np.stack(examples)


MEAN_T, STD_T = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
PLANES = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).contiguous()


def torch_finish(crops, generator):
    flips = torch.rand(len(crops), 1, 1, 1, generator=generator) < 0.5
    return (torch.where(flips, crops.flip(3), crops) / 255 - MEAN_T) / STD_T


def torch_gather(images, first):
    generator = torch.Generator().manual_seed(first)
    planes = torch.nn.functional.pad(PLANES[first : first + len(images)].float(), (PADDING,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * PADDING + 1, (2, len(images), 1), generator=generator)
    lines, columns = offsets + torch.arange(32)
    rows = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(3)[None, :, None, None]
    return torch_finish(planes[rows, channels, lines[:, None, :, None], columns[:, None, None, :]], generator)


def torch_one_crop(images, first):
    generator = torch.Generator().manual_seed(first)
    planes = torch.nn.functional.pad(PLANES[first : first + len(images)].float(), (PADDING,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * PADDING + 1, (2,), generator=generator).tolist()
    return torch_finish(planes[:, :, top : top + 32, left : left + 32], generator)


RIVALS = {
    "crosstrain": crosstrain,
    "Python loop over examples": loop,
    "torch ops, a crop per example": torch_gather,
    "torch ops, a crop per batch": torch_one_crop,
}


def epoch_of(augment):
    def run():
        for first in range(0, COUNT, BATCH):
            augment(IMAGES[first : first + BATCH], first)

    return run


def loading(backend, where):
    accelerator = ct.Accelerator(backend)
    loader = accelerator.loader({"image": IMAGES}, batch_size=BATCH, transform=transform, transform_on=where)

    def run():
        for _ in loader:
            pass
        accelerator.synchronize()

    return run


LOADERS = [(backend, where) for backend in ("jax", "torch") for where in ("host", "device")]


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def main():
    torch.set_num_threads(1)
    runs = {name: epoch_of(augment) for name, augment in RIVALS.items()}
    runs |= {f"loader on {backend}, on the {where}": loading(backend, where) for backend, where in LOADERS}
    for run in runs.values():  # JAX compiles
        run()
    times = {name: [] for name in runs}
    for _ in range(3):  # taken in turns, so that a busy machine slows all of them
        for name, run in runs.items():
            times[name].append(seconds(run))
    own = statistics.median(times["crosstrain"])
    print(f"{'crop, flip, normalise':32}{'images / s':>12}{'time / crosstrain':>20}")
    for name, taken in times.items():
        median = statistics.median(taken)
        print(f"{name:32}{COUNT / median:12,.0f}{median / own:20.2f}")


if __name__ == "__main__":
    main()
