"""Find and read the weights of feature extractors without running code that a file may contain."""

import hashlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from gantrain.datasets.download import socket_timeout
from gantrain.datasets.untrusted import open_regular, printable
from gantrain.errors import ConfigError, DataError


def require_package(package: str, features: str) -> str:
    """Return the version of a package of the extra gantrain[metrics].

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return version(package)
    except PackageNotFoundError as error:
        raise ConfigError(
            f"features={features} needs {package}: pip install 'gantrain[metrics]', or choose other features."
        ) from error


def require_file(path: str) -> Path:
    """Return the file that the user names by features.weights.

    Raises:
        ConfigError: there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"features.weights={path}: there is no such file; name the file of the weights.")
    return file


def download_file(features: str, needs: str, *, allowed: bool, fetch: Callable[[], str | Path], source: str) -> Path:
    """Download a missing file of weights, if the user allows it, and return its path.

    Args:
        features: the option of the group `features`.
        needs: which file is missing, where, and its SHA-256, for the message.
        fetch: downloads the file and returns its path.
        source: where to get the file by hand, for the message.

    Raises:
        ConfigError: downloading is not allowed, or failed.
    """
    remedy = f"Download {source} on any machine, and type features={features} features.weights=FILE"
    needs = f"features={features}: {needs}"
    if not allowed:
        raise ConfigError(f"{needs} is missing. {remedy}; or set features.download=true.")
    try:
        with socket_timeout():
            return Path(fetch())
    except Exception as error:  # the remedy is the same for every cause
        reason = printable(error) or type(error).__name__
        raise ConfigError(f"{needs} is missing, and its download failed ({reason}). {remedy}.") from error


def read_verified(path: Path, expected: str | None) -> tuple[bytes, str]:
    """Read a file, and return its content and its SHA-256.

    Args:
        expected: the SHA-256 that it must have; None: any.

    Raises:
        DataError: it cannot be read, or it has another SHA-256.
    """
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"The weights {path} cannot be read ({error.strerror}); replace the file.") from error
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected.lower():
        raise DataError(
            f"The weights {path} have the SHA-256 {found}, not {expected}; nothing in the file was read further. "
            "Replace it; or, if you want these weights, set features.sha256 to theirs."
        )
    return content, found


def load_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a file that torch.save wrote, by name; no code in it is run.

    Args:
        path: where the content was read, for messages and for its suffix.

    Raises:
        DataError: the content is something else.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            found = load(content)
        else:
            found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can raise any exception
        reason = printable(str(error).partition(". ")[0])
        raise DataError(f"The weights {path} hold something else than tensors ({reason}); replace the file.") from error
    if not isinstance(found, dict) or not all(isinstance(x, Tensor) for x in found.values()):
        raise DataError(f"The weights {path} are not tensors by name; replace the file.")
    return found
