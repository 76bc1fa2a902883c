"""Decode once, then memory-map.

A cache is <name>-<key>.npy with the pixels and .json, the manifest, which is written last: without it there is no
cache. Labels are not in it, because they cost nothing to find again. The key covers the source and its preprocessing,
so that a cache is never out of date; when either changes, another is built beside it.

The manifest holds the sha256 of pixels and labels. It is compared in small caches whenever they are loaded, and in
large ones when the file's time or size is not the one that was noted: then a load takes no longer the larger they are,
and what changed without a trace, as on a failing disk, goes unnoticed.
"""

import errno
import hashlib
import json
import logging
import math
import os
import time
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Int64, UInt8
from typing_extensions import override

from gantrain.console import console
from gantrain.datasets.base import ImageDataset, ImagesOnDemand
from gantrain.datasets.decoding import Decode, decoding
from gantrain.datasets.images import BadImageError
from gantrain.datasets.progress import track
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import ConfigError, DataError, GantrainError
from gantrain.files import atomic_write, require_space

logger = logging.getLogger(__name__)
FORMAT_VERSION = 2
VERIFIED_BYTES = 256 * 10**6
_NUM_BAD_SHOWN = 5
_STALE_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Source:
    """Images that are decoded one by one.

    Attributes:
        origin: where they come from, for messages.
        names: one an image, for messages.
        listing: what changes when an image changes; can be written as JSON.
        preprocessing: what is done to each, likewise.
        decode: the i-th image; called in several threads or forked processes; raises BadImageError.
    """

    name: str
    origin: str
    names: Sequence[str]
    listing: Sequence[object]
    preprocessing: Mapping[str, object]
    image_shape: tuple[int, int, int]
    labels: Int64[np.ndarray, " n"] | None
    num_classes: int | None
    decode: Decode

    def key(self) -> str:
        """Sha256 of all that decides about the pixels."""
        facts = [FORMAT_VERSION, self.name, self.image_shape, dict(self.preprocessing), list(self.listing)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached(source: Source, *, cache_dir: Path, max_bad_fraction: float) -> ImageDataset:
    """Memory-map the decoded images once they are asked for, decoding them first unless an earlier run did.

    Asking for them raises:
        ConfigError: cache_dir cannot be written, or its disk is too small.
        DataError: more than max_bad_fraction of the images are bad, or the cache cannot be read.
        GantrainError: the disk filled up while the cache was written.
    """
    return ImagesOnDemand(
        source.name,
        num_images=len(source.names),
        image_shape=source.image_shape,
        num_classes=source.num_classes,
        load=lambda num_workers: _load_or_build(source, cache_dir, max_bad_fraction, num_workers),
    )


def _load_or_build(source: Source, cache_dir: Path, max_bad_fraction: float, num_workers: int | None) -> ImageDataset:
    key = source.key()
    stem = cache_dir / f"{source.name}-{key[:16]}"
    found = _load(source, stem, key)
    if found is None:
        with _write_errors(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
            manifest = Path(f"{stem}.json")
            before = manifest.stat() if manifest.exists() else None
            with _alone(stem):
                if manifest.exists() and manifest.stat() != before:  # another process has made it meanwhile
                    found = _load(source, stem, key)
                if found is None:
                    with _told_when_stopped(stem):
                        _build(source, stem, key, num_workers)
        found = found or _load(source, stem, key)
    if found is None:
        raise DataError(f"The cache {stem}.npy changed while it was being read; run again.")
    digest, bad, images, labels = found
    _report_bad(source, bad, max_bad_fraction)
    return MappedImages(
        Path(f"{stem}.npy"),
        images,
        name=source.name,
        labels=None if labels is None else torch.from_numpy(labels),
        num_classes=source.num_classes,
        fingerprint=digest,
    )


@contextmanager
def _told_when_stopped(stem: Path) -> Iterator[None]:
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        console.print(f"Stopped while decoding into {stem}.npy; nothing of it is kept.", markup=False, soft_wrap=True)
        raise


class MappedImages(ImageDataset):
    """Images in a file: mapped, and read from it where some are gathered.

    A page that is read through the map counts as this process's memory, and up to two megabytes of the file come with
    an image of a few kilobytes. What is read is not counted, and takes half of the time.
    """

    def __init__(self, path: Path, images: np.memmap[Any, Any], **facts: Any):
        super().__init__(images=_as_tensor(images), **facts)
        self._path, self._offset, self._num_bytes = path, images.offset, math.prod(self.image_shape)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @override
    def gather(self, indices: Int64[torch.Tensor, " k"]) -> UInt8[torch.Tensor, "k c h w"]:
        images = np.empty((len(indices), self._num_bytes), np.uint8)
        for place, i in zip(images, indices.tolist(), strict=True):
            place[...] = np.frombuffer(self._read(i), np.uint8)
        return torch.from_numpy(images).view(-1, *self.image_shape)

    def _read(self, i: int) -> bytes:
        if not 0 <= i < self.num_images:
            raise IndexError(f"image {i} of {self.num_images}")
        try:
            content, reason = os.pread(self._file, self._num_bytes, self._offset + i * self._num_bytes), ""
        except OSError as error:
            content, reason = b"", error.strerror or ""
        if len(content) != self._num_bytes:
            raise GantrainError(f"The cache {self._path} cannot be read any more ({reason or 'it is too short now'}).")
        return content


@contextmanager
def _alone(stem: Path) -> Iterator[None]:
    # The runs of a sweep may begin side by side, and be those of several people.
    path = stem.parent / f".{stem.name}.lock"
    lock: Any = FileLock(path, mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is decoding into %s.npy; waiting for it.", stem)
        lock.acquire()
    except PermissionError:
        if not path.exists():
            raise
        lock = None  # it is somebody else's; then both decode, and the last one's cache stays
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                path.unlink()
            lock.release()


@contextmanager
def _write_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise GantrainError(
                f"The disk that holds dataset.cache_dir={cache_dir} is full ({error.strerror}); "
                "free some space or choose another with dataset.cache_dir=..."
            ) from error
        raise _not_writable(cache_dir, error.strerror) from error


def _not_writable(cache_dir: Path, reason: str | None) -> ConfigError:
    return ConfigError(f"dataset.cache_dir={cache_dir} cannot be written ({reason}); choose another folder.")


def _as_tensor(images: UInt8[np.ndarray, "n c h w"]) -> UInt8[torch.Tensor, "n c h w"]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


def fingerprint(images: UInt8[np.ndarray, "n c h w"], labels: Int64[np.ndarray, " n"] | None) -> str:
    """Sha256 of pixels, labels and shape."""
    return _finish(hashlib.sha256(np.ascontiguousarray(images).data), images.shape, labels)


def _finish(digest: Any, shape: tuple[int, ...], labels: Int64[np.ndarray, " n"] | None) -> str:
    if labels is not None:
        digest.update(labels.astype("<i8").data)
    digest.update(repr(tuple(map(int, shape))).encode())
    return str(digest.hexdigest())


def _load(source: Source, stem: Path, key: str) -> tuple[str, dict[str, str], Any, Any] | None:
    path, manifest_path = Path(f"{stem}.npy"), Path(f"{stem}.json")
    try:
        if not manifest_path.exists():
            return None
        with open_regular(manifest_path) as file:
            manifest = json.load(file)
        if (manifest["version"], manifest["key"]) != (FORMAT_VERSION, key):
            raise ValueError("another key")
        digest, bad, noted = manifest["fingerprint"], manifest["bad"], manifest["file"]
        if not isinstance(digest, str) or not all(isinstance(text, str) for pair in bad.items() for text in pair):
            raise ValueError("text expected")
        good = [i for i, name in enumerate(source.names) if name not in bad]
        if not good:
            raise ValueError("no images")
        labels = None if source.labels is None else source.labels[good]
        # Read-only: private writable pages would count as used memory, and data larger than that could not be mapped.
        with open_regular(path) as file:
            images = np.lib.format.open_memmap(path, mode="r")
            expected = (len(good), *source.image_shape)
            if (images.dtype, images.shape) != (np.dtype(np.uint8), expected) or not images.flags.c_contiguous:
                raise ValueError(f"{images.dtype} {list(images.shape)}")
            if (found := _facts(file))["num_bytes"] != images.offset + images.nbytes:
                raise ValueError(f"{found['num_bytes']:,} bytes")
            if images.nbytes <= VERIFIED_BYTES or found != noted:
                file.seek(images.offset)  # reading the map instead would count as used memory
                if _finish(hashlib.file_digest(file, "sha256"), images.shape, labels) != digest:
                    raise ValueError("other pixels or labels")
        if found != noted:
            with suppress(OSError):  # who may only read it compares again the next time
                _write_manifest(stem, manifest | {"file": found})
        return digest, bad, images, labels
    except FileNotFoundError as error:
        reason: object = error.strerror
    except OSError as error:  # decoding again would not help
        raise DataError(
            f"The cache {stem}.npy cannot be read ({error.strerror}); mend that or choose another dataset.cache_dir."
        ) from error
    except Exception as error:  # what was damaged, or made to do harm, can say anything
        reason = f"{type(error).__name__}: {error}"
    logger.warning("The cache %s.npy does not match its manifest (%s); decoding again.", stem, printable(reason))
    return None


def _facts(file: IO[bytes]) -> dict[str, int]:
    status = os.fstat(file.fileno())
    return {"num_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def _write_manifest(stem: Path, manifest: Mapping[str, object]) -> None:
    with atomic_write(Path(f"{stem}.json")) as file:
        file.write(json.dumps(manifest, indent=1).encode())


def _build(source: Source, stem: Path, key: str, num_workers: int | None) -> None:
    total = len(source.names)
    _remove_stale_temporaries(stem.parent, source.name)
    require_space(stem.parent, total * math.prod(source.image_shape), f"The cache of {source.origin}")
    logger.info("Decoding %s images of %s into %s.npy, once.", f"{total:,}", source.origin, stem)
    digest = hashlib.sha256()
    good: list[int] = []
    bad: dict[str, str] = {}
    # Written in order as a plain file rather than through a memory map: a disk that fills up is then an error, not a
    # bus error, and rows of bad images need not be moved.
    with (
        decoding(source.decode, source.names, source.image_shape, num_workers) as images,
        atomic_write(Path(f"{stem}.npy")) as file,
    ):
        _write_header(file, (total, *source.image_shape))
        for i, image in enumerate(track(images, total=total, what=f"Decoding {source.name}")):
            if isinstance(image, BadImageError):
                bad[source.names[i]] = str(image)
            else:
                file.write(image.data)
                digest.update(image.data)
                good.append(i)
        if not good:
            _report_bad(source, bad, 0.0)
        file.seek(0)
        # numpy pads headers so that the number of rows can change in place.
        _write_header(file, (len(good), *source.image_shape))
        file.flush()
        facts = _facts(file)
    labels = None if source.labels is None else source.labels[good]
    manifest = {
        "version": FORMAT_VERSION,
        "key": key,
        "name": source.name,
        "source": source.origin,
        "preprocessing": dict(source.preprocessing),
        "shape": [len(good), *source.image_shape],
        "num_bad": len(bad),
        "bad": bad,
        "fingerprint": _finish(digest, (len(good), *source.image_shape), labels),
        "file": facts,
    }
    try:
        _write_manifest(stem, manifest)
    except BaseException:
        Path(f"{stem}.npy").unlink(missing_ok=True)
        raise


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _remove_stale_temporaries(folder: Path, name: str) -> None:
    # A builder that was killed could not remove its own. One at work writes to its file all the time.
    for path in folder.glob(f".{name}-*.tmp"):
        with suppress(OSError):  # another process was faster, or the file belongs to someone else
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def _report_bad(source: Source, bad: Mapping[str, str], max_bad_fraction: float) -> None:
    if not bad:
        return
    shown = [f"{printable(name)} {reason}" for name, reason in list(bad.items())[:_NUM_BAD_SHOWN]]
    rest = len(bad) - len(shown)
    total = len(source.names)
    what = f"{len(bad):,} of {total:,} images of {source.origin} are bad: {'; '.join(shown)}"
    what += f"; and {rest:,} more" if rest else ""
    if len(bad) == total:
        raise DataError(f"{what}. None is left to train on.")
    if len(bad) / total > max_bad_fraction:
        remedy = math.ceil(100 * len(bad) / total) / 100
        raise DataError(f"{what}. Remove or replace them, or leave them out with dataset.max_bad_fraction={remedy}.")
    logger.warning("%s. They are left out.", what)
