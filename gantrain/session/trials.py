"""Make trial steps to find a batch size that fits into memory, and numbers of threads with bitwise equal results."""

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from gantrain.assemble import Training
from gantrain.config import Config
from gantrain.datasets.batches import Batch, Batches
from gantrain.engine.finite import named_tensors
from gantrain.engine.memory import largest_fitting, total_bytes
from gantrain.engine.openmp import AdaptThreads, Load, can_adapt_threads, fitting_threads
from gantrain.engine.runtime import find_user_code
from gantrain.schedules.apply import Schedules

logger = logging.getLogger(__name__)

SECONDS_TO_CONFIRM = 0.3
"""For how long trial steps must find the load that was measured before them."""


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


def fitting_accumulate(config: Config, rows: int, *, num_processes: int, group: int = 1) -> int | None:
    """Return the smallest `accumulate` for micro-batches of at most `rows` rows; None if there is none.

    Args:
        rows: number of rows of a micro-batch that fit into memory.
        group: a micro-batch consists of whole groups of this many rows, or is smaller than one.
    """
    per_process = config.batch_size // num_processes
    numbers = range(config.accumulate + 1, per_process // config.packing + 1)
    divisors = (n for n in numbers if per_process % (n * config.packing) == 0)
    micro_batches = ((n, per_process // n) for n in divisors)
    return next((n for n, micro in micro_batches if micro <= rows and micro % min(group, micro) == 0), None)


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


def choose_threads(training: Training, load: Load, earlier: Mapping[str, Any]) -> None:
    """If other programs use cores when a run starts, and results depend on the number of threads, choose it for good.

    The number is kept in run.json and taken again when the run is resumed. Where results do not depend on it, it is
    adapted while the run goes on, see with_adaptive_threads.

    Args:
        load: a measurement of the time since the job started.
        earlier: run.json of the earlier sessions of a run that is resumed.
    """
    run, most = training.run, torch.get_num_threads()
    if not is_adaptable(training):
        return
    if run.previous is not None:
        fitting = min(int(earlier.get("threads", most)), most) if earlier.get("threads_fixed_by_load") else most
        if fitting == most:
            return
    else:
        fitting = fitting_threads(most, load.others())
        if fitting == most:
            return
        load.restart()
        is_equal = is_bitwise_equal(training, most, fitting)
        while load.seconds < SECONDS_TO_CONFIRM:
            is_equal &= is_bitwise_equal(training, most, fitting)
        others = load.others()
        if is_equal or fitting_threads(most, others) > fitting:
            return
        logger.warning(
            "Other programs use %.1f of %d cores: this run has %d thread%s to its end instead of %d, and its results "
            "differ by rounding. runtime.threads=%d sets the number.",
            *(others, most, fitting, "s" * (fitting > 1), most, most),
        )
    run.runtime = replace(run.runtime, threads=fitting, fixed_by_load=True)


def with_adaptive_threads(training: Training, callbacks: Sequence[Callable[..., None]]) -> list[Callable[..., None]]:
    """Return the callbacks with one that adapts the number of CPU threads of the updates to the load, if possible."""
    if not is_adaptable(training):
        return list(callbacks)
    max_threads = torch.get_num_threads()
    same = partial(is_bitwise_equal, training, max_threads)
    return AdaptThreads(max_threads, set_threads=torch.set_num_threads, is_bitwise_equal=same).around(callbacks)


def is_adaptable(training: Training) -> bool:
    """Return whether the number of CPU threads may be chosen from the load of the machine.

    It may not if runtime.threads or OMP_NUM_THREADS sets it, on a GPU, and with several processes; nor with the user's
    own code, because a trial step could have side effects.
    """
    run = training.run
    is_set = run.config.runtime.threads != "auto" or run.runtime.threads is not None
    parts: list[object] = [run.state.G, run.state.D, run.objective.loss, run.latent]
    parts += [*run.objective.regularizers.values(), *run.objective.augment.values()]
    if is_set or run.device.type != "cpu" or run.processes.world_size > 1 or torch.get_num_threads() == 1:
        return False
    return find_user_code(parts) is None and can_adapt_threads()


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
    """Make step 0 on copies of the networks, optimizers, regularizers and augmentations; return all their tensors."""
    run = training.run
    state, objective = deepcopy((run.state, run.objective))
    state.step = state.batches_seen = 0
    # One critic update, because a warm-up would make a hundred of them.
    config = replace(run.config, n_critic=1, critic_warmup=None)
    copied = replace(run, config=config, state=state, objective=objective, steps=1)
    replace(training, run=copied, schedules=Schedules(state, objective))([])
    states: list[object] = [part.state_dict() for part in objective.regularizers.values()]
    states += [part.state_dict() for part in objective.augment.values()]
    return [tensor for _, tensor in named_tensors(state)] + [torch.as_tensor(x) for x in tree_leaves(states)]
