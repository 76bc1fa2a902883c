"""Serve batches: batch i is a pure function of the seed and i.

Prefetching, sharding and resuming then only request other indices. Images are transferred as bytes, and converted to
floats and mirrored on the device.
"""

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from gantrain.datasets.base import Dataset, Distribution, ImageDataset
from gantrain.engine.workers import thread_pool
from gantrain.files import format_bytes
from gantrain.seeding import generator

logger = logging.getLogger(__name__)

DataLocation = Literal["auto", "device", "host"]

NUM_PREFETCHED = 2
"""Batches that are prefetched while another one is in use."""

CHUNK_IMAGES = 4096
"""Images per copy when the whole dataset is copied to the device."""


class Batch(NamedTuple):
    """Samples with their labels, on the training device.

    Attributes:
        x: float32 [n, ...], images in [-1, 1].
        y: int64 [n] in [0, num_classes), or None if no network takes labels.
    """

    x: Float[Tensor, "n *shape"]
    y: Int64[Tensor, " n"] | None = None


@runtime_checkable
class Batches(Protocol):
    """An endless sequence of batches; batch i is a pure function of (seed, i).

    Attributes:
        batch_size: number of samples in a batch, summed over all processes.
    """

    batch_size: int

    def __getitem__(self, i: int) -> Batch:
        """Return the i-th batch on the training device; with several processes, only the rows of this one."""
        ...

    def for_generator(self) -> "Batches":
        """Return the same data in another order, for generator updates that compare with real samples."""
        ...


class ImageBatches:
    """Images in [-1, 1], drawn without replacement: each epoch is one seeded permutation of all images.

    A batch may span several epochs. So every image is seen once per epoch for any batch size, and the dataset may be
    smaller than a batch.

    Args:
        mirror: whether to mirror images left to right, each image in each epoch with probability 1/2.
        labels: whether batches contain labels.
        resident: whether to copy all images to the device at the start.
        rows: the rows of each batch that belong to this process; None: all rows.
    """

    purpose: tuple[str, ...] = ()
    """Part of the random key of the order: () for the critic, ("generator",) for the generator."""

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        mirror: bool = False,
        labels: bool = False,
        resident: bool = False,
        rows: slice | None = None,
    ):
        self.data_location: DataLocation = "device" if resident else "host"
        self.num_images, self.gather = dataset.num_images, dataset.gather
        self.storage_device = device if resident else torch.device("cpu")
        self.batch_size, self.seed, self.device, self.mirror = batch_size, seed, device, mirror
        self.rows = slice(None) if rows is None else rows
        self.labels = to_device(dataset.labels, self.storage_device) if labels and dataset.labels is not None else None
        self._cache_epochs()
        if resident:
            images = copy_all_images(dataset, device)
            self.gather = partial(images.index_select, 0)

    def _cache_epochs(self) -> None:
        self._order, self._mirrored = (lru_cache(maxsize=2)(draw) for draw in (self._draw_order, self._draw_mirrored))

    def for_generator(self) -> "ImageBatches":
        """Return the same images in another order."""
        other = copy(self)
        other.purpose = ("generator",)
        other._cache_epochs()
        return other

    def __getitem__(self, i: int) -> Batch:
        """Return the i-th batch, images float32 in [-1, 1]."""
        return self.finish(i, self.pixels(i).to(self.device), self.labels_of(i))

    def labels_of(self, i: int) -> Int64[Tensor, " n"] | None:
        """Return the labels of the i-th batch on the storage device, or None."""
        return None if self.labels is None else self.labels.index_select(0, self.indices(i)[self.rows])

    def pixels(self, i: int) -> UInt8[Tensor, "n c h w"]:
        """Return the images of the i-th batch as bytes on the storage device."""
        return self.gather(self.indices(i)[self.rows])

    def finish(self, i: int, pixels: UInt8[Tensor, "n c h w"], y: Int64[Tensor, " n"] | None) -> Batch:
        """Mirror the pixels of the i-th batch and convert them to floats, on the device."""
        if self.mirror:
            mirrored = to_device(self._select_batch(self._mirrored, i)[self.rows], self.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
        return Batch(to_signed(pixels), None if y is None else to_device(y, self.device))

    def indices(self, i: int) -> Int64[Tensor, " n"]:
        """Return the indices of the images in the i-th batch, over all processes."""
        return self._select_batch(self._order, i)

    def _select_batch(self, of_epoch: Callable[[int], Tensor], i: int) -> Tensor:
        num_images, start, stop = self.num_images, i * self.batch_size, (i + 1) * self.batch_size
        epochs = range(start // num_images, (stop - 1) // num_images + 1)
        firsts = [epoch * num_images for epoch in epochs]
        return torch.cat(
            [of_epoch(e)[max(0, start - first) : stop - first] for e, first in zip(epochs, firsts, strict=True)]
        )

    # Random numbers are drawn on the CPU, so that they are the same for every device.

    def _draw_order(self, epoch: int) -> Int64[Tensor, " num_images"]:
        order = torch.randperm(self.num_images, generator=generator(self.seed, *self.purpose, "order", epoch))
        return to_device(order, self.storage_device)

    def _draw_mirrored(self, epoch: int) -> Bool[Tensor, " num_images"]:
        mirrored = torch.rand(self.num_images, generator=generator(self.seed, *self.purpose, "mirror", epoch)) < 0.5
        return to_device(mirrored, self.storage_device)


class Prefetcher:
    """Batches of images on the host that are copied to the device while earlier batches are in use."""

    def __init__(self, batches: ImageBatches):
        self.batches, self.batch_size, self.device = batches, batches.batch_size, batches.device
        self.data_location = batches.data_location
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.executor = thread_pool(1, "batches")
        self.in_flight: dict[int, Future[tuple[Tensor, Tensor | None, torch.cuda.Event | None]]] = {}

    def for_generator(self) -> "Prefetcher":
        """Return the same images in another order."""
        return Prefetcher(self.batches.for_generator())

    def __getitem__(self, i: int) -> Batch:
        """Return the i-th batch, images float32 in [-1, 1], and start the transfer of the next ones."""
        wanted = range(i, i + 1 + NUM_PREFETCHED)
        self.in_flight = {j: self.in_flight.get(j) or self.executor.submit(self.transfer, j) for j in wanted}
        pixels, y, copied = self.in_flight.pop(i).result()
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in (pixels, y):
                if tensor is not None:
                    tensor.record_stream(stream)
        return self.batches.finish(i, pixels, y)

    def transfer(self, i: int) -> tuple[UInt8[Tensor, "n c h w"], Int64[Tensor, " n"] | None, torch.cuda.Event | None]:
        """Copy the i-th batch to the device on a separate CUDA stream; return it with the event of the copy."""
        pixels, y = self.batches.pixels(i), self.batches.labels_of(i)
        if self.stream is None:
            return pixels.to(self.device), y, None
        with torch.cuda.stream(self.stream):
            y = None if y is None else to_device(y, self.device)
            return to_device(pixels, self.device), y, self.stream.record_event()


class FreshBatches:
    """Batches that are fresh samples of a distribution; no sample is used twice."""

    data_location: DataLocation = "host"
    purpose: tuple[str, ...] = ()

    def __init__(
        self, dataset: Distribution, *, batch_size: int, seed: int, device: torch.device, rows: slice | None = None
    ):
        self.dataset = dataset
        self.batch_size, self.seed, self.device, self.rows = batch_size, seed, device, rows

    def for_generator(self) -> "FreshBatches":
        """Return other samples of the distribution."""
        other = copy(self)
        other.purpose = ("generator",)
        return other

    def __getitem__(self, i: int) -> Batch:
        """Return the i-th batch, float32 [n, d]; with several processes, only the rows of this one."""
        whole = self.dataset.sample(self.batch_size, generator(self.seed, *self.purpose, "data", i))
        return Batch(to_device(whole if self.rows is None else whole[self.rows], self.device))


def joined_batches(batches: Batches, i: int, *, num: int) -> Batch:
    """Concatenate `num` consecutive batches, starting at batch i * num."""
    if num == 1:
        return batches[i]
    parts = [batches[i * num + j] for j in range(num)]
    labels = [part.y for part in parts if part.y is not None]
    return Batch(torch.cat([part.x for part in parts]), torch.cat(labels) if labels else None)


def make_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    mirror: bool = False,
    labels: bool = False,
    data_location: DataLocation = "auto",
    rows: slice | None = None,
) -> ImageBatches | Prefetcher | FreshBatches:
    """Make the batches of a dataset: from the device, prefetched from the host, or sampled from a distribution.

    Args:
        mirror: whether to mirror images left to right with probability 1/2.
        labels: whether batches contain the labels, if the dataset has any.
        data_location: where images are stored: "device", "host", or "auto": on the device if they take at most half of
            its free memory, otherwise on the host.
        rows: the rows of each batch that belong to this process; None: all rows.
    """
    options: Any = {"batch_size": batch_size, "seed": seed, "device": device, "rows": rows}
    if not isinstance(dataset, ImageDataset):
        return FreshBatches(dataset, **options)
    options |= {"mirror": mirror, "labels": labels}
    if device.type == "cpu":
        if data_location == "device":
            logger.warning("runtime.data=device is not available (the device is a CPU); using host.")
        return ImageBatches(dataset, **options)
    if data_location == "auto" and not fits_device(dataset, device):
        size = format_bytes(num_bytes(dataset))
        logger.info(
            "The images stay on the host: %s may be more than half of the free memory of %s.",
            size,
            device,
        )
    elif data_location != "host":
        try:
            return ImageBatches(dataset, **options, resident=True)
        except RuntimeError as error:  # out of memory on the device, or of pinned memory on the host
            if "memory" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            logger.warning("runtime.data=device is not available (%s); using host.", reason)
    return Prefetcher(ImageBatches(dataset, **options))


def copy_all_images(dataset: ImageDataset, device: torch.device) -> UInt8[Tensor, "n c h w"]:
    """Copy all images to the device, in chunks."""
    images = torch.empty(dataset.num_images, *dataset.image_shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK_IMAGES):
        chunk = images[start : start + CHUNK_IMAGES]
        chunk.copy_(to_device(dataset.gather(torch.arange(start, start + len(chunk))), device))
    return images


def fits_device(dataset: ImageDataset, device: torch.device) -> bool:
    """Return whether the images take at most half of the device's free memory."""
    return device.type == "cuda" and 2 * num_bytes(dataset) <= torch.cuda.mem_get_info(device)[0]


def num_bytes(dataset: ImageDataset) -> int:
    """Return the size of all images as bytes."""
    return dataset.num_images * math.prod(dataset.image_shape)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Move a tensor to the device without waiting for it; a tensor already there is not copied."""
    if x.device.type == "cpu" and device.type == "cuda":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def to_signed(images: Tensor) -> Tensor:
    """Convert uint8 in [0, 255] to float32 in [-1, 1].

    It multiplies by 1 / 127.5, because division by a scalar is not bitwise identical on every device.
    """
    return images.float().mul_(1 / 127.5).sub_(1)


def to_bytes(images: Tensor) -> Tensor:
    """Convert floats in [-1, 1] to uint8 in [0, 255]; round to the nearest integer and clip to the range."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
