"""Batch i as a pure function of the seed and i.

Prefetching, sharding and resuming are then a matter of asking for other indices. Images travel as bytes; what is done
to them is done on the device.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from gantrain.datasets.base import Dataset, Distribution, ImageDataset
from gantrain.files import format_bytes
from gantrain.seeding import generator

logger = logging.getLogger(__name__)

DataPlace = Literal["auto", "device", "host"]

NUM_AHEAD = 2
"""Batches on their way to the device at a time."""

CHUNK_IMAGES = 4096
"""Brought to the device at a time when all are."""


@runtime_checkable
class Batches(Protocol):
    """An endless sequence of batches."""

    batch_size: int

    def __getitem__(self, i: int) -> Float[Tensor, "n *shape"]:
        """Return the i-th batch on the training device."""
        ...


class ImageBatches:
    """Images in [-1, 1], drawn without replacement from one seeded permutation an epoch after another.

    A batch may span two epochs, so that every image is seen once an epoch whatever the batch size is, and a data set
    may be smaller than a batch.

    Args:
        mirror: whether each image is shown mirrored, left to right, in half of the epochs, by a coin of its own.
        resident: whether all images are to lie on the device from the start.
        rows: which of a batch this process has; None: all of them.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        mirror: bool = False,
        resident: bool = False,
        rows: slice | None = None,
    ):
        self.place: DataPlace = "device" if resident else "host"
        self.num_images, self.gather = len(dataset.images), dataset.gather
        self.home = device if resident else torch.device("cpu")
        self.batch_size, self.seed, self.device, self.mirror = batch_size, seed, device, mirror
        self.rows = slice(None) if rows is None else rows
        self._order, self._coins = (lru_cache(maxsize=2)(draw) for draw in (self._order_of, self._coins_of))
        if resident:
            images = all_on(device, dataset)
            self.gather = partial(images.index_select, 0)

    def __getitem__(self, i: int) -> Float[Tensor, "n c h w"]:
        """Return the i-th batch, float32 in [-1, 1]."""
        return self.finish(i, self.pixels(i).to(self.device))

    def pixels(self, i: int) -> UInt8[Tensor, "n c h w"]:
        """Return the images of the i-th batch as they are kept, where they are kept."""
        return self.gather(self.indices(i)[self.rows])

    def finish(self, i: int, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Do on the device what is left to do to the images of the i-th batch."""
        if self.mirror:
            coins = to_device(self._of_batch(self._coins, i)[self.rows], self.device)
            pixels = torch.where(coins[:, None, None, None], pixels.flip(-1), pixels)
        return to_signed(pixels)

    def indices(self, i: int) -> Int64[Tensor, " n"]:
        """Which images the i-th batch holds."""
        return self._of_batch(self._order, i)

    def _of_batch(self, of_epoch: Callable[[int], Tensor], i: int) -> Tensor:
        num_images, start, stop = self.num_images, i * self.batch_size, (i + 1) * self.batch_size
        epochs = range(start // num_images, (stop - 1) // num_images + 1)
        firsts = [epoch * num_images for epoch in epochs]
        return torch.cat(
            [of_epoch(e)[max(0, start - first) : stop - first] for e, first in zip(epochs, firsts, strict=True)]
        )

    # Drawn on the CPU, so that they are the same on every device.

    def _order_of(self, epoch: int) -> Int64[Tensor, " num_images"]:
        order = torch.randperm(self.num_images, generator=generator(self.seed, "order", epoch))
        return to_device(order, self.home)

    def _coins_of(self, epoch: int) -> Bool[Tensor, " num_images"]:
        coins = torch.rand(self.num_images, generator=generator(self.seed, "mirror", epoch)) < 0.5
        return to_device(coins, self.home)


class Prefetcher:
    """The batches of images on the host, each on its way to the device while those before it are used."""

    def __init__(self, batches: ImageBatches):
        self.batches, self.batch_size, self.device = batches, batches.batch_size, batches.device
        self.place = batches.place
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.bringer = ThreadPoolExecutor(1, "batches")
        self.brought: dict[int, Future[tuple[Tensor, torch.cuda.Event | None]]] = {}

    def __getitem__(self, i: int) -> Float[Tensor, "n c h w"]:
        """Return the i-th batch, float32 in [-1, 1], and send for those after it."""
        wanted = range(i, i + 1 + NUM_AHEAD)
        self.brought = {j: self.brought.get(j) or self.bringer.submit(self.bring, j) for j in wanted}
        pixels, arrived = self.brought.pop(i).result()
        if arrived is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrived)
            pixels.record_stream(stream)
        return self.batches.finish(i, pixels)

    def bring(self, i: int) -> tuple[UInt8[Tensor, "n c h w"], torch.cuda.Event | None]:
        """Send the i-th batch to the device, on a stream of its own."""
        pixels = self.batches.pixels(i)
        if self.stream is None:
            return pixels.to(self.device), None
        with torch.cuda.stream(self.stream):
            return to_device(pixels, self.device), self.stream.record_event()


class FreshBatches:
    """Samples of a distribution, never the same twice."""

    place: DataPlace = "host"

    def __init__(
        self, dataset: Distribution, *, batch_size: int, seed: int, device: torch.device, rows: slice | None = None
    ):
        self.dataset = dataset
        self.batch_size, self.seed, self.device, self.rows = batch_size, seed, device, rows

    def __getitem__(self, i: int) -> Float[Tensor, "n d"]:
        """Return the i-th sample of batch_size vectors."""
        whole = self.dataset.sample(self.batch_size, generator(self.seed, "data", i))
        return to_device(whole if self.rows is None else whole[self.rows], self.device)


def make_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    mirror: bool = False,
    place: DataPlace = "auto",
    rows: slice | None = None,
) -> ImageBatches | Prefetcher | FreshBatches:
    """Choose how the dataset is served.

    Args:
        mirror: whether images are shown mirrored half of the time.
        place: where images lie: on the device, on the host, or "auto", on the device where they take no more than half
            of what is free there.
        rows: which of each batch to serve; None: all of them.
    """
    options: Any = {"batch_size": batch_size, "seed": seed, "device": device, "rows": rows}
    if not isinstance(dataset, ImageDataset):
        return FreshBatches(dataset, **options)
    options["mirror"] = mirror
    if device.type == "cpu":
        if place == "device":
            logger.warning("runtime.data=device cannot be had: a CPU has the host's memory. It is host instead.")
        return ImageBatches(dataset, **options)
    if place == "auto" and not fits(dataset, device):
        size = format_bytes(dataset.images.nbytes)
        logger.info(
            "The images take %s, and not surely less than half of what is free on %s; they stay on the host.",
            size,
            device,
        )
    elif place != "host":
        try:
            return ImageBatches(dataset, **options, resident=True)
        except RuntimeError as error:  # of the device's memory, or of the host's on the way there
            if "memory" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            logger.warning("runtime.data=device cannot be had: %s It is host instead.", reason)
    return Prefetcher(ImageBatches(dataset, **options))


def all_on(device: torch.device, dataset: ImageDataset) -> UInt8[Tensor, "n c h w"]:
    """Bring all images to the device, a part after the other."""
    images = torch.empty(dataset.num_images, *dataset.image_shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK_IMAGES):
        part = images[start : start + CHUNK_IMAGES]
        part.copy_(to_device(dataset.gather(torch.arange(start, start + len(part))), device))
    return images


def fits(dataset: ImageDataset, device: torch.device) -> bool:
    """Whether the images take no more than half of the device's free memory."""
    return device.type == "cuda" and 2 * dataset.images.nbytes <= torch.cuda.mem_get_info(device)[0]


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Move from the host without waiting for the device; what is there already stays."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def to_signed(images: Tensor) -> Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1], with the same bits on every device: some do not divide by a number."""
    return images.float().mul_(1 / 127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Floats in [-1, 1] to uint8 in [0, 255], rounded; what lies outside is clipped."""
    return images.add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)
