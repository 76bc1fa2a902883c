"""Read the rank of this process from the environment variables of torchrun or a cluster launcher.

This module does not import torch.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessRank:
    """The rank of this process among those that train one run.

    Attributes:
        rank: 0 to world_size - 1; rank 0 writes the files and prints.
        world_size: number of processes.
        local_rank: rank among the processes of this machine, and the index of the GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def process_rank() -> ProcessRank:
    """Read the rank of this process from the environment; rank 0 of 1 if torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ProcessRank()
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return ProcessRank(rank, world_size, local_rank) if world_size > 1 else ProcessRank()


def is_started_by_torchrun() -> bool:
    """Return whether torchrun itself started this process; submitit sets the same variables."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "SUBMITIT_EXECUTOR" not in os.environ


def adopt_submitit() -> None:
    """Set the environment variables of torchrun, if submitit started this process as one of several in a job."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if (job := JobEnvironment()).num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.environ["TORCHELASTIC_RUN_ID"] = job.job_id
