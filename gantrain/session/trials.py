"""Make trial steps to find a batch size that fits into memory, and numbers of threads with bitwise equal results."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gantrain.assemble import Training
from gantrain.config import Config
from gantrain.datasets.batches import Batch, Batches
from gantrain.engine.finite import named_tensors
from gantrain.engine.memory import largest_fitting, total_bytes
from gantrain.engine.openmp import AdaptThreads, can_adapt_threads
from gantrain.engine.runtime import find_user_code
from gantrain.schedules.apply import Schedules


@dataclass
class RepeatedBatch:
    """A sequence of batches that are all the same."""

    batch: Batch
    batch_size: int

    def __getitem__(self, i: int) -> Batch:
        """Return the batch."""
        return self.batch

    def for_generator(self) -> Batches:
        """Return the batches for generator steps, which are the same."""
        return self


def fitting_rows(training: Training) -> int:
    """Return how many rows of a micro-batch are likely to fit into memory, after those of the config did not.

    On a single GPU the number is estimated from the memory of two small training steps, which change the networks;
    otherwise it is half of the config's. It is a multiple of `packing`, and 0 if even one pack does not fit.
    """
    run, packing = training.run, training.run.config.packing
    rows = run.config.batch_size // run.processes.world_size // run.config.accumulate
    fitting = rows // 2
    small, large = (rows // n // packing * packing for n in (4, 2))
    if run.device.type == "cuda" and run.processes.world_size == 1 and 0 < small < large:
        for optimizer in (run.state.G_optimizer, run.state.D_optimizer):
            optimizer.zero_grad()
        try:
            peaks = [(n, measure_peak_bytes(training, n)) for n in (small, large)]
            fitting = largest_fitting(peaks, total_bytes(run.device), below=rows)
        except torch.OutOfMemoryError:
            fitting = rows // 8
    return fitting // packing * packing


def fitting_accumulate(config: Config, rows: int, *, num_processes: int) -> int | None:
    """Return the smallest `accumulate` for micro-batches of at most `rows` rows; None if there is none.

    Args:
        rows: number of rows of a micro-batch that fit into memory.
    """
    per_process = config.batch_size // num_processes
    numbers = range(config.accumulate + 1, per_process // config.packing + 1)
    divisors = (n for n in numbers if per_process % (n * config.packing) == 0)
    return next((n for n in divisors if per_process // n <= rows), None)


def measure_peak_bytes(training: Training, rows: int) -> int:
    """Make one eager step with a batch of `rows` rows, and return its peak GPU memory in bytes."""
    run, shape = training.run, training.run.dataset.image_shape
    x = torch.zeros(rows, *shape, device=run.device)
    y = None if training.fake_labels is None else torch.zeros(rows, dtype=torch.int64, device=run.device)
    batches = RepeatedBatch(Batch(x, y), rows)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(run.device)
    eager = replace(run.runtime, acceleration="eager")
    run = replace(run, runtime=eager, steps=run.state.step + 1, config=replace(run.config, accumulate=1))
    replace(training, run=run, batches=batches)([])
    return torch.cuda.max_memory_reserved(run.device)


def with_adaptive_threads(training: Training, callbacks: Sequence[Callable[..., None]]) -> list[Callable[..., None]]:
    """Return the callbacks with one that adapts the number of CPU threads of the updates to the load, if possible.

    The number is fixed if runtime.threads or OMP_NUM_THREADS sets it, on a GPU, and with several processes; and with
    the user's own code, because a trial step could have side effects.
    """
    run, max_threads = training.run, torch.get_num_threads()
    is_fixed = run.config.runtime.threads != "auto" or run.runtime.threads is not None
    parts: list[object] = [run.state.G, run.state.D, run.objective.loss, run.latent]
    parts += [*run.objective.regularizers.values(), *run.objective.augment.values()]
    if is_fixed or run.device.type != "cpu" or run.processes.world_size > 1 or max_threads == 1:
        return list(callbacks)
    if find_user_code(parts) is not None or not can_adapt_threads():
        return list(callbacks)
    same = partial(is_bitwise_equal, training, max_threads)
    return AdaptThreads(max_threads, set_threads=torch.set_num_threads, is_bitwise_equal=same).around(callbacks)


def is_bitwise_equal(training: Training, max_threads: int, threads: int) -> bool:
    """Return whether a training step is bitwise identical with `threads` threads and with `max_threads`.

    The trial is made on copies, with the current weights and step number 0, at which every lazy penalty is due.
    """
    previous = torch.get_num_threads()
    random_state = torch.get_rng_state()
    try:
        results = []
        for number in (max_threads, threads):
            torch.set_num_threads(number)
            results.append(tensors_after_step(training))
        return all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    finally:
        torch.set_num_threads(previous)
        torch.set_rng_state(random_state)


def tensors_after_step(training: Training) -> list[Tensor]:
    """Make step 0 on copies of the networks, optimizers, regularizers and augmentations; return the state's tensors."""
    run = training.run
    state, objective = deepcopy((run.state, run.objective))
    state.step = state.batches_seen = 0
    # One critic update, because a warm-up would make a hundred of them.
    config = replace(run.config, n_critic=1, critic_warmup=None)
    copied = replace(run, config=config, state=state, objective=objective, steps=1)
    replace(training, run=copied, schedules=Schedules(state, objective))([])
    return [tensor for _, tensor in named_tensors(state)]
