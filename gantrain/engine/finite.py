"""Find numbers that are NaN or Inf."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.train import TrainState


def named_tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """Name the floating point numbers of a state: gradients, weights, buffers and the optimizers' moments.

    They come in the order in which a step changes them, so that the first bad one is nearest to the cause.
    """
    for network, module, optimizer in (("D", state.D, state.D_optimizer), ("G", state.G, state.G_optimizer)):
        parameters = {f"{network}.{name}": parameter for name, parameter in module.named_parameters()}
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                yield f"the gradient of {name}", parameter.grad
        yield from parameters.items()
        yield from _buffers(network, module)
        for name, parameter in parameters.items():
            for moment, value in optimizer.state.get(parameter, {}).items():
                # The count of steps is a tensor too, and may be on the host.
                if moment != "step" and isinstance(value, Tensor) and value.is_floating_point():
                    yield f"{moment} of {name}", value
    if state.G_ema is not None:
        yield from ((f"G_ema.{name}", parameter) for name, parameter in state.G_ema.named_parameters())
        yield from _buffers("G_ema", state.G_ema)


def _buffers(network: str, module: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((f"{network}.{name}", b) for name, b in module.named_buffers() if b.is_floating_point())


@torch.no_grad()
def norms(tensors: list[Tensor]) -> Float[Tensor, " n"]:
    """Compute the Euclidean norm of each tensor, on their device.

    A finite norm has finite numbers alone. One that is not may also have overflowed; the largest magnitude would not,
    but takes 25 times as long on a CPU.
    """
    return torch.stack(torch._foreach_norm(tensors))


def first_nonfinite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Say which tensor is the first with a number that is not finite: "D.layers.0.weight holds nan"; None: no one is.

    The tensors are of floating point and on one device, which is waited for once if all is well.
    """
    named = list(named)
    for (name, tensor), norm in zip(named, norms([tensor for _, tensor in named]).tolist(), strict=True):
        if not math.isfinite(norm) and not tensor.isfinite().all():
            return f"{name} holds {'nan' if tensor.isnan().any() else 'inf'}"
    return None


def all_finite(tensor: Tensor) -> bool:
    """Whether a tensor on the host holds finite numbers alone; what another thread than the training's may ask.

    By numpy, for torch would start OpenMP threads for that thread too. With more of them than cores, OpenMP puts the
    training's own to sleep between any two operations from then on, which costs small networks a third of their speed.
    """
    if tensor.dtype in (torch.float16, torch.float32, torch.float64):
        return bool(np.isfinite(tensor.numpy()).all())
    return bool(tensor.isfinite().all())
