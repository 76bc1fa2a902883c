"""A cache on disk: images are decoded once, and later runs read their pixels from the file.

A cache is <name>-<key>.npy with the pixels and <name>-<key>.json, the manifest. The manifest is written last; without
it there is no cache. Labels are not stored, because they are cheap to find again. The key covers the source and its
preprocessing, so a cache is never out of date: when either changes, a new cache is built beside the old one.

The manifest holds the SHA-256 of pixels and labels. Small caches are verified at every load. Large ones are verified
only when the size or modification time of the file differs from the recorded one, so that loading takes constant time.
Damage that changes neither, for example by a failing disk, goes unnoticed in a large cache.
"""

import errno
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from gantrain.console import console
from gantrain.datasets.bad_images import report_bad
from gantrain.datasets.base import ImageDataset, LazyImageDataset
from gantrain.datasets.changes import describe_change, listing_of, save_listing
from gantrain.datasets.decoding import Decode, decoding
from gantrain.datasets.images import BadImageError
from gantrain.datasets.mapped import MappedImages
from gantrain.datasets.progress import track
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import ConfigError, DataError, GantrainError
from gantrain.files import atomic_write, require_space
from gantrain.locks import HeldError, locked

logger = logging.getLogger(__name__)
FORMAT_VERSION = 2
VERIFIED_BYTES = 256 * 10**6  # caches up to this size are verified at every load
_JUDGES = 2  # increase it when images are read that were bad before: only caches with bad images are decoded again
_STALE_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Source:
    """Images that are decoded one by one.

    Attributes:
        origin: where the images come from, for messages.
        names: one name per image, for messages.
        listing: entries that change when an image changes; must be JSON serializable.
        preprocessing: settings of the preprocessing; must be JSON serializable.
        decode: returns the i-th image or raises BadImageError; runs in several threads or forked processes.
        features: the option of the group `features` that fits the images.
        opened: a block around the decoding, which is entered before the workers are started.
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
    features: str = "inception"
    opened: Callable[[], AbstractContextManager[None]] = nullcontext

    def key(self) -> str:
        """Return the SHA-256 of everything that determines the pixels."""
        facts = [FORMAT_VERSION, self.name, self.image_shape, dict(self.preprocessing), list(self.listing)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cached(source: Source, *, cache_dir: Path, max_bad_fraction: float) -> ImageDataset:
    """Return a dataset that memory-maps the decoded images at first use, and decodes them if there is no cache yet.

    The first use of the images raises:
        ConfigError: cache_dir cannot be written, or its disk is too small.
        DataError: more than max_bad_fraction of the images are bad, or the cache cannot be read.
        GantrainError: the disk filled up while the cache was being written.
    """
    name, key = source.name, source.key()
    stem = cache_dir / f"{name}-{key[:16]}"
    return LazyImageDataset(
        name,
        num_images=len(source.names),
        image_shape=source.image_shape,
        num_classes=source.num_classes,
        load=lambda num_workers: _load_or_build(source, stem, key, max_bad_fraction, num_workers),
        features=source.features,
        describe_change=lambda is_earlier: describe_change(stem, name, is_earlier),
    )


def _load_or_build(
    source: Source, stem: Path, key: str, max_bad_fraction: float, num_workers: int | None
) -> ImageDataset:
    cache_dir = stem.parent
    found = _load(source, stem, key)
    if found is not None and not listing_of(stem).exists():  # an earlier version built the cache
        with suppress(OSError):  # it may belong to another user
            save_listing(stem, source.listing)
    if found is None:
        with _explain_write_errors(cache_dir):
            cache_dir.mkdir(parents=True, exist_ok=True)
            manifest = Path(f"{stem}.json")
            before = manifest.stat() if manifest.exists() else None
            with _build_lock(stem):
                if manifest.exists() and manifest.stat() != before:  # another process has built the cache meanwhile
                    found = _load(source, stem, key)
                if found is None:
                    with _report_interruption(stem):
                        _build(source, stem, key, num_workers)
        found = found or _load(source, stem, key)
    if found is None:
        raise DataError(f"The cache {stem}.npy changed while it was being read; run again.")
    digest, bad, images, labels = found
    report_bad(source.origin, source.names, bad, max_bad_fraction)
    loaded = MappedImages(
        Path(f"{stem}.npy"),
        images,
        name=source.name,
        labels=None if labels is None else torch.from_numpy(labels),
        num_classes=source.num_classes,
        fingerprint=digest,
        features=source.features,
    )
    loaded.bad = bad
    return loaded


@contextmanager
def _report_interruption(stem: Path) -> Iterator[None]:
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        message = f"Stopped while decoding into {stem}.npy; the incomplete cache was removed."
        console.print(message, markup=False, soft_wrap=True)
        raise


@contextmanager
def _build_lock(stem: Path) -> Iterator[None]:
    # Runs of a sweep, or of several users, may start at the same time and share a cache.
    path = stem.parent / f".{stem.name}.lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, for_all_users=True))
        except HeldError:
            logger.info("Another process is decoding into %s.npy; waiting for it.", stem)
            stack.enter_context(locked(path, waits=True))
        except PermissionError:
            if not path.exists():
                raise
            # The lock belongs to another user; then both processes decode, and the last cache written remains.
            yield
            return
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


@contextmanager
def _explain_write_errors(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise GantrainError(
                f"The disk that holds dataset.cache_dir={cache_dir} is full ({error.strerror}); "
                "free some space or choose another with dataset.cache_dir=..."
            ) from error
        raise ConfigError(
            f"dataset.cache_dir={cache_dir} cannot be written ({error.strerror}); choose another folder."
        ) from error


def fingerprint(images: UInt8[np.ndarray, "n c h w"], labels: Int64[np.ndarray, " n"] | None) -> str:
    """Return the SHA-256 of pixels, labels and shape."""
    return finish_fingerprint(hashlib.sha256(np.ascontiguousarray(images).data), images.shape, labels)


def finish_fingerprint(digest: Any, shape: tuple[int, ...], labels: Int64[np.ndarray, " n"] | None) -> str:
    """Return the fingerprint, given a digest of the pixels."""
    if labels is not None:
        digest.update(labels.astype("<i8").data)
    digest.update(repr(tuple(map(int, shape))).encode())
    return str(digest.hexdigest())


class _MismatchError(ValueError):
    """A cache does not match its manifest."""


def _load(source: Source, stem: Path, key: str) -> tuple[str, dict[str, str], Any, Any] | None:
    # Returns fingerprint, bad images with reasons, pixels and labels; None if the cache must be built.
    path, manifest_path = Path(f"{stem}.npy"), Path(f"{stem}.json")
    try:
        if not manifest_path.exists():
            return None
        with open_regular(manifest_path) as file:
            manifest = json.load(file)
        if (manifest["version"], manifest["key"]) != (FORMAT_VERSION, key):
            raise _MismatchError("its version or key differs")
        digest, bad, recorded_stamp = manifest["fingerprint"], manifest["bad"], manifest["file"]
        if not isinstance(digest, str) or not all(isinstance(text, str) for pair in bad.items() for text in pair):
            raise _MismatchError("its entries are not text")
        if bad and manifest.get("judged") != _JUDGES:
            raise _MismatchError("an earlier version refused some images")
        good = [i for i, name in enumerate(source.names) if name not in bad]
        if not good:
            raise _MismatchError("it has no images")
        labels = None if source.labels is None else source.labels[good]
        # Read-only, because private writable pages would count as used memory and limit the cache to the memory size.
        with open_regular(path) as file:
            images = np.lib.format.open_memmap(path, mode="r")
            expected = (len(good), *source.image_shape)
            if (images.dtype, images.shape) != (np.dtype(np.uint8), expected) or not images.flags.c_contiguous:
                raise _MismatchError(f"the pixels are {images.dtype} {list(images.shape)}")
            if (stamp := _file_stamp(file))["num_bytes"] != images.offset + images.nbytes:
                raise _MismatchError(f"the file has {stamp['num_bytes']:,} bytes")
            if images.nbytes <= VERIFIED_BYTES or stamp != recorded_stamp:
                file.seek(images.offset)  # hash the file, because pages read through the map would count as used memory
                if finish_fingerprint(hashlib.file_digest(file, "sha256"), images.shape, labels) != digest:
                    raise _MismatchError("pixels or labels differ")
        if stamp != recorded_stamp:
            with suppress(OSError):  # without write permission the cache is verified again at the next load
                _write_manifest(stem, manifest | {"file": stamp})
        return digest, bad, images, labels
    except FileNotFoundError as error:
        reason: object = error.strerror
    except OSError as error:  # decoding again would not help
        raise DataError(
            f"The cache {stem}.npy cannot be read ({error.strerror}); repair it or choose another dataset.cache_dir."
        ) from error
    except _MismatchError as error:
        reason = error
    except Exception as error:  # a damaged or malicious file can raise any exception
        reason = f"{type(error).__name__}: {error}"
    logger.warning("The cache %s.npy does not match its manifest (%s); decoding again.", stem, printable(reason))
    return None


def _file_stamp(file: IO[bytes]) -> dict[str, int]:
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
    # Written in order to a plain file, not through a memory map: a full disk is then an exception instead of a bus
    # error, and no rows have to be moved if bad images are left out.
    with (
        source.opened(),
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
            report_bad(source.origin, source.names, bad, 0.0)
        file.seek(0)
        # numpy pads headers, so a header with a smaller number of rows fits in the same bytes.
        _write_header(file, (len(good), *source.image_shape))
        file.flush()
        stamp = _file_stamp(file)
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
        "judged": _JUDGES,
        "fingerprint": finish_fingerprint(digest, (len(good), *source.image_shape), labels),
        "file": stamp,
    }
    try:
        save_listing(stem, source.listing)
        _write_manifest(stem, manifest)
    except BaseException:
        for path in (Path(f"{stem}.npy"), listing_of(stem)):
            path.unlink(missing_ok=True)
        raise


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _remove_stale_temporaries(folder: Path, name: str) -> None:
    # A killed process leaves its temporary file behind. A running one modifies its file all the time.
    for path in folder.glob(f".{name}-*.tmp"):
        with suppress(OSError):  # another process removed it first, or it belongs to another user
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
