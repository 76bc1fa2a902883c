"""Measure training steps on a CPU with and without keeping freed memory, in turn.

    python benchmarks/freed_memory.py [--rounds 3]

Each measurement is a new process with one thread. Prints medians: the CPU time of a step (user and system), its page
faults, and the peak memory of the process. GLIBC_TUNABLES with a setting of the allocator turns keeping off.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

import torch
from cases import Case, composed, networks

from gantrain.budget import critic_schedule
from gantrain.datasets.batches import Batch
from gantrain.engine.heap import keep_freed_memory
from gantrain.session.trials import RepeatedBatch
from gantrain.train import train

WIDTH_32 = ("model.generator.width=32", "model.discriminator.width=32")
CASES = {
    "DCGAN, 64 px, width 32, batch 16": (64, ("model=dcgan", "batch_size=16", *WIDTH_32)),
    "WGAN-GP, 64 px, batch 64": (64, ("model=wgan_gp", "batch_size=64")),
    "SNGAN, 32 px, batch 64": (32, ("model=sngan", "batch_size=64")),
    "StyleGAN2, 64 px, width 32, batch 16": (64, ("model=stylegan2", "batch_size=16", *WIDTH_32)),
    "lightweight, 64 px, width 32, batch 16": (64, ("model=lightweight", "batch_size=16", "accumulate=1", *WIDTH_32)),
}
FIGURES = {"seconds": "{:.2f} → {:.2f}", "faults": "{:,.0f} → {:,.0f}", "megabytes": "{:,.0f} → {:,.0f} MB"}
TURNED_OFF = {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}  # a setting without effect


def main() -> None:
    """Measure all cases, or with `--case` one in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(*CASES[arguments.case])))
        return
    print("| case | CPU seconds per step | page faults per step | peak memory | ratio |\n|---|---|---|---|---|")
    for name in CASES:
        turns = [(in_new_process(name, TURNED_OFF), in_new_process(name, {})) for _ in range(arguments.rounds)]
        columns = [
            form.format(*(statistics.median(found[key] for found in side) for side in zip(*turns, strict=True)))
            for key, form in FIGURES.items()
        ]
        ratio = statistics.median(kept["seconds"] / given_back["seconds"] for given_back, kept in turns)
        print(f"| {name} | {' | '.join(columns)} | {ratio:.2f} |", flush=True)


def in_new_process(name: str, environment: dict[str, str]) -> dict[str, float]:
    """Measure a case in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", name],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(image_size: int, overrides: Sequence[str]) -> dict[str, float]:
    """Train for some seconds; return the CPU seconds and page faults of a step, and the peak memory in MB."""
    torch.set_num_threads(1)
    dataset = "cifar10" if image_size == 32 else "celeba"
    case = Case((f"dataset={dataset}", *overrides), (3, image_size, image_size), "arrays", 1)
    config, device = composed(case), torch.device("cpu")
    state, latent, objective = networks(case, config, device)
    batch = Batch(torch.rand(config.batch_size, *case.image_shape) * 2 - 1)

    keep_freed_memory()

    def advance(steps: int) -> None:
        train(
            *(state, RepeatedBatch(batch, config.batch_size), latent, objective),
            steps=state.step + steps,
            n_critic=critic_schedule(config.n_critic, None),
            seed=0,
            device=device,
        )

    advance(5)
    before, start = resource.getrusage(resource.RUSAGE_SELF), state.step
    advance(4)  # with each lazy penalty at most once
    after = resource.getrusage(resource.RUSAGE_SELF)
    steps = state.step - start
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": seconds / steps,
        "faults": (after.ru_minflt - before.ru_minflt) / steps,
        "megabytes": after.ru_maxrss * 1024 / 1e6,
    }


if __name__ == "__main__":
    main()
