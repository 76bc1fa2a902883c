"""Read golden numbers of published reference implementations, which tests/data/oracles/README.md describes."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gantrain.models.spectral_norm import original_weight

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


def load_layer(layer: nn.Module, golden: dict[str, Tensor], name: str) -> None:
    """Set the weights and buffers of a layer to golden ones; spectral norm starts from the golden u."""
    with torch.no_grad():
        for own in ("weight", "bias", "running_mean", "running_var"):
            if (value := golden.get(f"{name}.{own}")) is not None:
                target = original_weight(layer) if own == "weight" else getattr(layer, own)
                target.copy_(value)
        if (u := golden.get(f"{name}.sn_u")) is not None:
            layer.parametrizations["weight"][0].u.copy_(u)


def assert_golden(value: Tensor, golden: Tensor) -> None:
    """Check a float64 result against a golden one, which is rounded to float32."""
    torch.testing.assert_close(value.detach(), golden, atol=2e-7 * golden.abs().max().item(), rtol=0)
