"""Which device computes."""

import re

import torch

from gantrain.engine.torchrun import place
from gantrain.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Choose the device that `runtime.device` names, and make it torch's current one.

    Raises:
        ConfigError: it is unknown or not available.
    """
    where = place()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and where.world_size > 1:
        name = f"cuda:{where.local_rank}"
    remedy = "use runtime.device=cpu or runtime.device=auto"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise ConfigError(f"runtime.device={name}: must be one of auto, cpu, cuda, cuda:1, mps; {remedy}.")
    device = torch.device(name)
    if where.world_size > 1 and device.type != "cpu" and device.index != where.local_rank:
        raise ConfigError(
            f"runtime.device={name}: {where.world_size} processes take a GPU each; use runtime.device=cuda."
        )
    try:
        there = torch.empty(1, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"runtime.device={name} is not available ({reason}); {remedy}.") from error
    if there.type == "cuda":
        device = there  # which says its number
        torch.cuda.set_device(device)  # seeding and memory figures are those of the current device
        torch.backends.cudnn.deterministic = True  # or a resumed run would differ in the last bits
    return device
