"""Find images that a dataset has more than once: with the same pixels, or nearly the same."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from gantrain.datasets.base import ImageDataset
from gantrain.datasets.progress import track

MAX_COMPARED = 200_000
"""Images that are compared; of a larger dataset, evenly spaced ones."""

BLOCK = 1024
HASH_SIDE, GRAY_SIDE, THUMBNAIL_SIDE = 8, 32, 16
MAX_BITS = 4
"""Bits in which the hashes of near-duplicates differ at most, of 64."""

MAX_LEVELS = 6.0
"""Root mean square difference of the thumbnails of near-duplicates at most, of 255 gray levels; see are_alike."""

MAX_PAIRS = 50_000_000
"""Pairs of similar hashes that are compared; a dataset of nearly equal images has far more."""


@dataclass(frozen=True)
class Duplicates:
    """Images that others repeat.

    Attributes:
        num_compared: number of images that were compared.
        exact: groups of images with the same pixels, as indices.
        near: groups of images that are nearly the same; of each group of `exact` only the first is in it.
        is_complete: whether all pairs with similar hashes were compared for `near`, or only MAX_PAIRS of them.
    """

    num_compared: int
    exact: list[list[int]]
    near: list[list[int]]
    is_complete: bool


def find_duplicates(dataset: ImageDataset) -> Duplicates:
    """Compare the images as they are decoded and resized."""
    total = dataset.num_images
    chosen = torch.arange(total)
    if total > MAX_COMPARED:
        chosen = torch.linspace(0, total - 1, MAX_COMPARED, dtype=torch.float64).round().long()
    digests: dict[bytes, list[int]] = {}
    firsts, hashes, thumbnails = [], [], []
    is_new: list[bool] = []
    for part, images, k in track(blocks(dataset, chosen), total=len(chosen), what="Comparing images"):
        content = hashlib.blake2b(images[k].numpy().tobytes(), digest_size=16).digest()
        group = digests.setdefault(content, [])
        group.append(int(part[k]))
        is_new.append(len(group) == 1)
        if k == len(part) - 1:
            new, is_new = torch.tensor(is_new), []
            firsts.append(part[new])
            hashes.append(perceptual_hash(gray(images[new], GRAY_SIDE)))
            thumbnails.append(gray(images[new], THUMBNAIL_SIDE).round().byte())
    indices = torch.cat(firsts).tolist()
    pairs, is_complete = similar_pairs(torch.cat(hashes).numpy())
    pairs = pairs[are_alike(torch.cat(thumbnails).numpy(), pairs)]
    near = [[indices[i] for i in group] for group in groups_of(pairs)]
    return Duplicates(len(chosen), [group for group in digests.values() if len(group) > 1], near, is_complete)


def blocks(
    dataset: ImageDataset, chosen: Int64[Tensor, " k"]
) -> Iterator[tuple[Int64[Tensor, " b"], UInt8[Tensor, "b c h w"], int]]:
    """Yield for each image the indices and the images of its block, which is read at once, and its position there."""
    for part in torch.split(chosen, BLOCK):
        images = dataset.gather(part)
        for k in range(len(part)):
            yield part, images, k


def gray(images: UInt8[Tensor, "n c h w"], side: int) -> Float[Tensor, "n side side"]:
    """Return the luma, averaged to a square, in [0, 255]."""
    weights = torch.tensor([0.299, 0.587, 0.114]) if images.shape[1] == 3 else torch.ones(1)
    luma = (images.float() * weights[:, None, None]).sum(1, keepdim=True)
    return torch.nn.functional.adaptive_avg_pool2d(luma, side)[:, 0]


def perceptual_hash(grays: Float[Tensor, "n 32 32"]) -> Int64[Tensor, " n"]:
    """Hash images so that those which look alike differ in few bits.

    The bits say which of the 64 lowest frequencies of the discrete cosine transform are above their median.

    Source: Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", section 3.2.1.
    """
    k, x = torch.arange(HASH_SIDE)[:, None], torch.arange(GRAY_SIDE)[None]
    cosines = torch.cos(math.pi * (2 * x + 1) * k / (2 * GRAY_SIDE))
    frequencies = (cosines @ grays @ cosines.T).flatten(1)
    # The first is the mean, which says nothing about the content.
    median = frequencies[:, 1:].median(1, keepdim=True).values
    bits = (frequencies > median).long()
    bits[:, 0] = 0
    return (bits << torch.arange(64)).sum(1)


def similar_pairs(hashes: Int64[np.ndarray, " n"]) -> tuple[Int64[np.ndarray, "k 2"], bool]:
    """Return the pairs of indices whose hashes differ in at most MAX_BITS bits, each once, and whether these are all.

    It stops when MAX_PAIRS have been compared.
    """
    # Of MAX_BITS + 1 parts of such hashes, at least one is equal. So only images that share a part are compared.
    unsigned = hashes.view(np.uint64)
    parts = np.array_split(np.arange(64, dtype=np.uint64), MAX_BITS + 1)
    found: list[np.ndarray] = []
    budget, is_complete = MAX_PAIRS, True
    for part in parts:
        key = (unsigned >> part[0]) & np.uint64((1 << len(part)) - 1)
        order = np.argsort(key, kind="stable")
        key, values = key[order], unsigned[order]
        at, step = np.arange(len(order)), 1
        while len(at := at[at + step < len(key)]):
            at = at[key[at] == key[at + step]]
            if len(at) and budget <= 0:
                is_complete = False
                break
            budget -= len(at)
            close = at[np.bitwise_count(values[at] ^ values[at + step]) <= MAX_BITS]
            found.append(np.sort(np.stack([order[close], order[close + step]], 1), 1))
            step += 1
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.int64), is_complete


def are_alike(thumbnails: UInt8[np.ndarray, "n h w"], pairs: Int64[np.ndarray, "k 2"]) -> np.ndarray:
    """Return for each pair whether its thumbnails are nearly equal.

    The hash alone takes simple shapes for the same: two handwritten ones, or two dark photographs.
    """
    alike = []
    for part in np.array_split(pairs, max(1, len(pairs) // 100_000)):
        a, b = (thumbnails[part[:, k]].astype(np.float32) for k in (0, 1))
        alike.append(np.sqrt(((a - b) ** 2).mean((1, 2))) <= MAX_LEVELS)
    return np.concatenate(alike)


def groups_of(pairs: Sequence[Sequence[int]] | np.ndarray) -> list[list[int]]:
    """Join pairs that share an index to groups, sorted."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        while parent.setdefault(i, i) != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in (map(int, pair) for pair in pairs):
        parent[max(root(a), root(b))] = min(root(a), root(b))
    groups: dict[int, list[int]] = {}
    for i in sorted(parent):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
