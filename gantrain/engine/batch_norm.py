"""BatchNorm over the rows of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantrain.errors import ConfigError


class _Sum(torch.autograd.Function):
    """The sum over the processes; what is differentiated is the sum of all processes' losses."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return _Sum.apply(gradient)


class _WholeBatchNorm(_BatchNorm):
    """Batch normalization over the rows of all processes; it can be differentiated twice, on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize by the statistics of the whole batch, in evaluation mode by the running ones."""
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        numbers = x.float() if x.dtype == torch.bfloat16 else x
        own_mean = numbers.mean(dims)
        own_var = (numbers - own_mean.view(shape)).square().mean(dims)
        # Each process fills its place, so that the sum is a list of all; the variances combine as in Chan 1983.
        size = dist.get_world_size()
        places = torch.zeros(size, 1, 1, dtype=numbers.dtype, device=x.device)
        places[dist.get_rank()] = 1
        all_stats: Any = _Sum.apply(places * torch.stack([own_mean, own_var]))
        means, variances = all_stats.unbind(1)
        mean: Tensor = means.mean(0)
        var: Tensor = variances.mean(0) + (means - mean).square().mean(0)
        self.remember(mean.detach(), var.detach(), num=size * x.numel() // x.shape[1])
        normalized = (numbers - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(x.dtype)

    @torch.no_grad()
    def remember(self, mean: Tensor, var: Tensor, *, num: int) -> None:
        """Move the running statistics towards those of a batch of `num` numbers a channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((var * (num / (num - 1))).to(self.running_var.dtype), share)


class WholeBatchNorm1d(_WholeBatchNorm, nn.BatchNorm1d):
    """Of vectors."""


class WholeBatchNorm2d(_WholeBatchNorm, nn.BatchNorm2d):
    """Of images."""


def normalize_whole_batches(network: nn.Module) -> None:
    """Turn every batch normalization into one over all processes, its parameters and buffers staying what they are.

    Raises:
        ConfigError: one is of another kind, and would see the rows of its process alone.
    """
    kinds: dict[type, type] = {nn.BatchNorm1d: WholeBatchNorm1d, nn.BatchNorm2d: WholeBatchNorm2d}
    for module in network.modules():
        if isinstance(module, _BatchNorm) and type(module) not in (*kinds, *kinds.values(), nn.SyncBatchNorm):
            raise ConfigError(
                f"{type(module).__name__} in the {type(network).__name__} would normalize each process's rows by "
                "themselves; take torch's BatchNorm1d, BatchNorm2d or SyncBatchNorm, or a single process."
            )
        # In place, for the optimizer holds the parameters already.
        module.__class__ = kinds.get(type(module), type(module))
