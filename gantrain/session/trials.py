"""Trial steps: which batch fits into memory, and whether another number of threads gives the same bits."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gantrain.assemble import Training
from gantrain.datasets.batches import Batch, Batches
from gantrain.engine.finite import named_tensors
from gantrain.engine.memory import largest_fitting, total_bytes
from gantrain.engine.openmp import ThreadsFollowLoad, can_follow_load
from gantrain.engine.runtime import own_code
from gantrain.schedules.apply import Schedules


@dataclass
class RepeatedBatch:
    """The same batch again and again."""

    batch: Batch
    batch_size: int

    def __getitem__(self, i: int) -> Batch:
        """Return the batch."""
        return self.batch

    def for_generator(self) -> Batches:
        """Return the same."""
        return self


def fitting_batch_size(training: Training) -> int | None:
    """Return the largest batch size that is likely to fit, after a larger one did not; None: no size does.

    On a GPU two small steps are made and their memory is measured, which changes the networks; elsewhere it is half
    the size.
    """
    run, size = training.run, training.run.config.batch_size
    rows = size // run.processes.world_size // run.config.accumulate
    if rows < 2:
        return None
    if run.device.type != "cuda" or rows < 4 or run.processes.world_size > 1:
        return size // 2
    for optimizer in (run.state.G_optimizer, run.state.D_optimizer):
        optimizer.zero_grad()
    try:
        peaks = [(rows // n, peak_bytes(training, rows // n)) for n in (4, 2)]
    except torch.OutOfMemoryError:
        return max(1, size // 8)
    return largest_fitting(peaks, total_bytes(run.device), below=rows) * run.config.accumulate


def peak_bytes(training: Training, rows: int) -> int:
    """Return the bytes that one eager step takes on the GPU with a batch of so many rows."""
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


def load_followers(training: Training) -> list[Callable[..., None]]:
    """Return the callback that adapts the number of CPU threads to the machine's load, where that is possible.

    The user's own code is left alone: a trial step of it could have effects that nothing takes back.
    """
    run, most = training.run, torch.get_num_threads()
    is_fixed = run.config.runtime.threads != "auto" or run.runtime.threads is not None
    parts: list[object] = [run.state.G, run.state.D, run.objective.loss, run.latent]
    parts += [*run.objective.regularizers.values(), *run.objective.augment.values()]
    if is_fixed or run.device.type != "cpu" or run.processes.world_size > 1 or most == 1:
        return []
    if own_code(parts) is not None or not can_follow_load():
        return []
    same = partial(gives_same_bits, training, most)
    return [ThreadsFollowLoad(most, set_threads=torch.set_num_threads, gives_same_bits=same)]


def gives_same_bits(training: Training, most: int, threads: int) -> bool:
    """Tell whether a step on copies of everything gives the same numbers with `threads` threads as with `most`.

    The trial is step 0 of the run, at which every lazy penalty is due, from the present weights.
    """
    usual = torch.get_num_threads()
    random_state = torch.get_rng_state()
    try:
        found = []
        for number in (most, threads):
            torch.set_num_threads(number)
            found.append(numbers_after_a_step(training))
        return all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    finally:
        torch.set_num_threads(usual)
        torch.set_rng_state(random_state)


def numbers_after_a_step(training: Training) -> list[Tensor]:
    """Make step 0 on copies of the networks, optimizers, regularizers and augmentations; return all their numbers."""
    run = training.run
    state, objective = deepcopy((run.state, run.objective))
    state.step = state.batches_seen = 0
    copied = replace(run, state=state, objective=objective, steps=1)
    replace(training, run=copied, schedules=Schedules(state, objective))([])
    return [tensor for _, tensor in named_tensors(state)]
