"""Synchronize BatchNorm over all processes, with a double backward for gradient penalties."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gantrain.errors import ConfigError


class _AllReduceSum(torch.autograd.Function):
    """All-reduce (sum); the backward pass all-reduces the gradient, which is that of the sum of all ranks' losses."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Any:
        return _AllReduceSum.apply(gradient)


class _SynchronizedBatchNorm(_BatchNorm):
    """Synchronized BatchNorm: normalizes over the rows of all processes; twice differentiable, on every device."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x by the statistics of the whole batch; in evaluation mode by the running statistics."""
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        values = x.float() if x.dtype == torch.bfloat16 else x
        own_mean = values.mean(dims)
        own_var = (values - own_mean.view(shape)).square().mean(dims)
        # Each rank fills its own row of zeros, so the all-reduce gathers the statistics of all ranks. The variances are
        # combined as in Chan 1983.
        size = dist.get_world_size()
        one_hot_rank = torch.zeros(size, 1, 1, dtype=values.dtype, device=x.device)
        one_hot_rank[dist.get_rank()] = 1
        all_stats: Any = _AllReduceSum.apply(one_hot_rank * torch.stack([own_mean, own_var]))
        means, variances = all_stats.unbind(1)
        mean: Tensor = means.mean(0)
        var: Tensor = variances.mean(0) + (means - mean).square().mean(0)
        self.update_running_stats(mean.detach(), var.detach(), num=size * x.numel() // x.shape[1])
        normalized = (values - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(x.dtype)

    @torch.no_grad()
    def update_running_stats(self, mean: Tensor, var: Tensor, *, num: int) -> None:
        """Update the running statistics with those of a batch that has `num` values per channel."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_((var * (num / (num - 1))).to(self.running_var.dtype), weight)


class SynchronizedBatchNorm1d(_SynchronizedBatchNorm, nn.BatchNorm1d):
    """BatchNorm1d that is synchronized over all processes."""


class SynchronizedBatchNorm2d(_SynchronizedBatchNorm, nn.BatchNorm2d):
    """BatchNorm2d that is synchronized over all processes."""


def synchronize_batch_norm(network: nn.Module) -> None:
    """Make every BatchNorm layer of the network normalize over all processes; parameters and buffers are kept.

    Raises:
        ConfigError: the network has another type of BatchNorm layer, which would see only the rows of its own process.
    """
    kinds: dict[type, type] = {nn.BatchNorm1d: SynchronizedBatchNorm1d, nn.BatchNorm2d: SynchronizedBatchNorm2d}
    for module in network.modules():
        if isinstance(module, _BatchNorm) and type(module) not in (*kinds, *kinds.values(), nn.SyncBatchNorm):
            raise ConfigError(
                f"{type(module).__name__} in the {type(network).__name__} would normalize the rows of each process "
                "separately; use BatchNorm1d, BatchNorm2d or SyncBatchNorm of torch, or a single process."
            )
        # In place, because the optimizer already refers to the parameters.
        module.__class__ = kinds.get(type(module), type(module))
