"""Check tensors for NaN and Inf."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gantrain.train import TrainState


def named_tensors(state: TrainState) -> Iterator[tuple[str, Tensor]]:
    """Yield the floating point tensors of a state with their names: gradients, weights, buffers and moments.

    D is before G, the order of a step with first=discriminator, so the first non-finite one is nearest to the cause.
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
                # The step count is also a tensor, which may be on the host.
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

    If the norm is finite, all values are. A non-finite norm may also come from an overflow of finite values; the
    maximum norm cannot overflow, but takes 25 times as long on a CPU.
    """
    return torch.stack(torch._foreach_norm(tensors))


def first_nonfinite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Describe the first tensor with NaN or Inf, for example "D.layers.0.weight holds nan"; None if there is none.

    Args:
        named: floating point tensors, all on one device. If they are finite, the device is synchronized only once.
    """
    named = list(named)
    for (name, tensor), norm in zip(named, norms([tensor for _, tensor in named]).tolist(), strict=True):
        if not math.isfinite(norm) and not tensor.isfinite().all():
            return f"{name} holds {'nan' if tensor.isnan().any() else 'inf'}"
    return None


def all_finite(tensor: Tensor) -> bool:
    """Return whether a tensor on the host is finite; safe to call from any thread.

    It uses numpy, because torch would start another pool of OpenMP threads for the calling thread. With more OpenMP
    threads than cores, those of the training sleep between operations from then on, and small networks lose a third of
    their speed.
    """
    if tensor.dtype in (torch.float16, torch.float32, torch.float64):
        return bool(np.isfinite(tensor.numpy()).all())
    return bool(tensor.isfinite().all())
