"""Profile an eager float32 step, and print its time by operator.

python benchmarks/profile_step.py wgan_gp_celeba_f128
python benchmarks/profile_step.py default --steps 20 --rows 20
"""

import argparse
from collections import defaultdict

import torch
from cases import CASES, composed, networks
from torch.profiler import ProfilerActivity, profile

from gantrain.assemble import build_ema
from gantrain.budget import critic_schedule
from gantrain.datasets.batches import Batch
from gantrain.session.trials import RepeatedBatch
from gantrain.train import train


def main() -> None:
    """Profile some steps of a case on one batch, after one warm-up step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--rows", type=int, default=10)
    arguments = parser.parse_args()
    case = CASES[arguments.case]
    config = composed(case)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, latent, objective = networks(case, config, device)
    x = torch.rand(config.batch_size, *case.image_shape, device=device) * 2 - 1

    def advance(steps: int) -> None:
        train(
            *(state, RepeatedBatch(Batch(x), config.batch_size), latent, objective),
            steps=state.step + steps,
            n_critic=critic_schedule(config.n_critic, config.critic_warmup),
            seed=0,
            device=device,
            ema=build_ema(config),
        )

    advance(1)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        advance(arguments.steps)
    taken: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    for event in profiled.key_averages():
        microseconds = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        taken[event.key] += microseconds / 1e3 / arguments.steps
        calls[event.key] += event.count
    total = sum(taken.values())
    print(f"{arguments.case}: {total:,.4g} ms a step in operators\n")
    print("| operator | ms a step | share | calls a step |\n|---|---|---|---|")
    for name in sorted(taken, key=lambda name: -taken[name])[: arguments.rows]:
        print(f"| `{name}` | {taken[name]:,.4g} | {taken[name] / total:.0%} | {calls[name] / arguments.steps:g} |")


if __name__ == "__main__":
    main()
