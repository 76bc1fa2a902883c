"""Several processes that train one run, started by torchrun.

Each takes its rows of every batch. What they do together is what one process would do with the whole batch: noise is
drawn for all rows and cut (seeding), gradients are averaged before each step of an optimizer, which is after the whole
backward pass, that of a penalty's own gradient included, and batch normalization sees all rows.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from gantrain import seeding
from gantrain.console import console
from gantrain.errors import ConfigError, GantrainError, UserError
from gantrain.torchrun import Place, is_of_torchrun, place
from gantrain.train import Observations, TrainState


@dataclass(frozen=True)
class Processes(Place):
    """The processes of a run; by default this one alone, for which everything here is nothing to do.

    Attributes:
        host_group: the group for what goes from host to host.
    """

    host_group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files and talks."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """This one's rows of n."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let what fails in one process fail in all.

        Raises:
            GantrainError: it failed in another one, a ConfigError where the user can mend it; what fails here is raised
                as it is.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failures: list[Any] = [None] * self.size
        if self.size > 1:
            told = None if failure is None else (isinstance(failure, UserError), _told(failure))
            dist.all_gather_object(failures, told, group=self.host_group)
        if failure is not None:
            raise failure
        for rank, told in enumerate(failures):
            if told is not None:
                is_of_the_user, reason = told
                raise (ConfigError if is_of_the_user else GantrainError)(f"process {rank} of {self.size}: {reason}")

    def broadcast(self, content: Any) -> Any:
        """Hand what the main process has to all; they wait for it."""
        if self.size == 1:
            return content
        held = [content]
        dist.broadcast_object_list(held, src=0, group=self.host_group)
        return held[0]

    def broadcast_networks(self, state: TrainState) -> None:
        """Hand the main process's weights and buffers to all."""
        if self.size > 1:
            for network in (state.G, state.D, state.G_ema):
                for tensor in [] if network is None else network.state_dict().values():
                    dist.broadcast(tensor, src=0)

    def gather(self, content: Any) -> list[Any]:
        """Bring what each has to the main process, in the order of their ranks; the others get nothing."""
        if self.size == 1:
            return [content]
        held = [None] * self.size if self.is_main else None
        dist.gather_object(content, held, dst=0, group=self.host_group)
        return held or []

    def largest(self, number: int) -> int:
        """The largest of what each has."""
        if self.size == 1:
            return number
        held = torch.tensor(number)
        dist.all_reduce(held, dist.ReduceOp.MAX, group=self.host_group)
        return int(held)

    def share(self, batch_size: int, state: TrainState) -> None:
        """Share every batch out from here on.

        Raises:
            ConfigError: the batch cannot be shared out evenly, or a network has a batch normalization that cannot.
        """
        if batch_size % self.size:
            near = max(1, round(batch_size / self.size)) * self.size
            fewer = max(n for n in range(1, self.size) if batch_size % n == 0)
            raise ConfigError(
                f"batch_size={batch_size}: {self.size} processes take equal parts of each batch; start {fewer}, or a "
                f"run with batch_size={near}."
            )
        seeding.shard = seeding.Shard(self.rank, self.size, batch_size // self.size)
        if self.size > 1:
            for optimizer in (state.G_optimizer, state.D_optimizer):
                optimizer.register_step_pre_hook(lambda optimizer, *_: average_gradients(optimizer, self.size))
            for network in (state.G, state.D, state.G_ema):
                if network is not None:
                    normalize_whole_batches(network)

    def own_codes(self, latent: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Have the latent draw for the whole batch and return this one's rows."""
        if self.size == 1:
            return latent

        def own(n: int, *, device: torch.device) -> Float[Tensor, "n_own z_dim"]:
            return latent(n, device=device)[self.rows(n)]

        return own

    def average(self, state: TrainState, observations: Observations) -> None:
        """Put in place of each tensor of a step's observations its mean over the whole batch."""
        tensors = {tag: value for tag, value in observations.items() if isinstance(value, Tensor)}
        means = torch.stack([value.float().mean() for value in tensors.values()])
        dist.all_reduce(means)
        observations.update(zip(tensors, (means / self.size).unbind(), strict=True))

    def lost(self, error: BaseException) -> bool:
        """Whether the error is that another process does not answer any more."""
        said = str(error).lower()
        return self.size > 1 and (
            isinstance(error, dist.DistError)
            or (isinstance(error, RuntimeError) and any(word in said for word in ("gloo", "nccl", "closed by peer")))
        )

    def is_first_to_tell(self) -> bool:
        """Whether no other process has asked this before; where torchrun keeps no count, each has a log of its own."""
        if self.size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return True
        try:
            store = dist.distributed_c10d._get_default_store()
            store.set_timeout(timedelta(seconds=5))
            return bool(store.add("gantrain has told", 1) == 1)
        except RuntimeError:
            return True


ALONE = Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started; alone where it started none."""
    where = place()
    if where.size == 1:
        yield ALONE
        return
    from torch._C._distributed_c10d import PrefixStore  # not in every build of torch
    from torch.distributed.rendezvous import rendezvous

    # Under a name of its own for each start: those that torchrun starts again (--max-restarts) would wait for the ones
    # before for ever (torch 2.14).
    start = f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store, rank, size = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=PrefixStore(start, store), rank=rank, world_size=size)
    # The main process may be decoding a data set while the others wait for it.
    host_group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    console.quiet = where.rank > 0
    try:
        yield Processes(where.rank, where.size, where.local_rank, host_group)
    finally:
        seeding.shard = seeding.Shard()
        if not is_of_torchrun():  # whose processes end with everything as it is
            dist.destroy_process_group()


def require_alone(what: str) -> None:
    """Refuse torchrun's processes where there is nothing to share out.

    Raises:
        ConfigError: there are several.
    """
    if (size := place().size) > 1:
        raise ConfigError(f"{what} runs in one process, and torchrun started {size}; call it by gantrain alone.")


def average_gradients(optimizer: Optimizer, size: int) -> None:
    """Average the gradients of an optimizer's parameters over the processes, in one message a kind of number."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    for dtype in dict.fromkeys(gradient.dtype for gradient in gradients):
        some = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.flatten() for gradient in some]) / size
        dist.all_reduce(flat)
        parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in some])
        torch._foreach_copy_(some, [part.view_as(g) for part, g in zip(parts, some, strict=True)])


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


def _told(failure: Exception) -> str:
    return str(failure) if isinstance(failure, GantrainError) else f"{type(failure).__name__}: {failure}"


def in_order(shares: Sequence[Sequence[Any]]) -> list[Any]:
    """Put together what was dealt out one by one, in turn."""
    longest = max(map(len, shares), default=0)
    return [share[i] for i in range(longest) for share in shares if i < len(share)]
