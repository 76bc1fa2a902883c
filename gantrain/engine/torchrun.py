"""What torchrun, or a cluster's launcher, tells the processes that it starts; nothing here imports torch by itself."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """This process among those that train one run.

    Attributes:
        rank: its number among all; 0 writes the files and talks.
        world_size: how many there are.
        local_rank: its number on its machine, and that of its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0


def place() -> Place:
    """Read it off the environment; alone where torchrun did not start the process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Place()
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Place(rank, world_size, local_rank) if world_size > 1 else Place()


def is_of_torchrun() -> bool:
    """Whether torchrun itself started this process, which then has to hand nothing back."""
    return "TORCHELASTIC_RUN_ID" in os.environ and "SUBMITIT_EXECUTOR" not in os.environ


def adopt_submitit() -> None:
    """Where submitit started this process among several of one job, put down what torchrun would tell them."""
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    if (job := JobEnvironment()).num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        os.environ["TORCHELASTIC_RUN_ID"] = job.job_id
