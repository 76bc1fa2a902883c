"""Choose the device."""

import re

import torch

from gantrain.engine.torchrun import process_rank
from gantrain.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device that `runtime.device` names, and make it torch's current device.

    With several processes, each gets the GPU with its local rank.

    Raises:
        ConfigError: the name is invalid, or the device is not available.
    """
    own = process_rank()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and own.world_size > 1:
        name = f"cuda:{own.local_rank}"
    remedy = "use runtime.device=cpu or runtime.device=auto"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"runtime.device={name}: must be one of auto, cpu, cuda, cuda:1, mps; {remedy}.")
    device = torch.device(name)
    if own.world_size > 1 and device.type != "cpu" and device.index != own.local_rank:
        raise ConfigError(
            f"runtime.device={name}: the {own.world_size} processes need a GPU each; use runtime.device=cuda."
        )
    try:
        indexed = torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"runtime.device={name} is not available ({reason}); {remedy}.") from error
    if indexed.type == "cuda":
        device = indexed  # "cuda" with its index
        torch.cuda.set_device(device)  # seeding and memory statistics use the current device
        torch.backends.cudnn.deterministic = True  # otherwise a resumed run would differ in the last bits
    return device
