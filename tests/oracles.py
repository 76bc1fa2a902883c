"""Read golden numbers of published reference implementations, which tests/data/oracles/README.md describes."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(os.environ.get("GANTRAIN_ORACLES") or Path(__file__).parent / "data" / "oracles")


def oracle_files(pattern: str) -> list[Path]:
    """List the golden files that match a pattern, so that new files are tested without editing a test.

    Raises:
        FileNotFoundError: no file matches, so that the test would check nothing.
    """
    found = sorted(FOLDER.glob(pattern))
    if not found:
        raise FileNotFoundError(f"{FOLDER} has no {pattern}; set GANTRAIN_ORACLES to the folder of the golden files.")
    return found


def load(path: Path, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Read the arrays of a file by name, without arrays of text; floating-point arrays are converted to `dtype`."""
    with np.load(path) as arrays:
        read = {name: arrays[name] for name in arrays.files}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in read.items() if array.dtype.kind != "U"}
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in tensors.items()}


def texts(path: Path, name: str) -> list[str]:
    """Read an array of strings, for example the names of parameters."""
    with np.load(path) as arrays:
        return [str(text) for text in arrays[name]]
