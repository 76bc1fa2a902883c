"""Measure gantrain's Frechet distance against scipy.linalg.sqrtm in turn, and print medians, the ratio and the values.

OMP_NUM_THREADS=1 python benchmarks/frechet.py                  # 2,048 dimensions, 3 rounds
OMP_NUM_THREADS=1 python benchmarks/frechet.py --num 1000       # fewer samples than dimensions
"""

import argparse
import statistics
import time
from collections.abc import Callable

import scipy.linalg
import torch
from torch import Tensor

from gantrain.metrics.frechet import frechet_distance


def main() -> None:
    """Measure both on the moments of correlated random features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--num", type=int, default=10_000, help="number of samples of each side")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    moments = [make_moments(arguments.num, arguments.dimensions, seed) for seed in (0, 1)]

    def gantrain() -> float:
        return frechet_distance(*moments[0], *moments[1])

    def scipy_sqrtm() -> float:
        (mean_a, a), (mean_b, b) = moments
        root = torch.from_numpy(scipy.linalg.sqrtm((a @ b).numpy()))
        return ((mean_a - mean_b).square().sum() + (a + b).trace() - 2 * root.real.trace()).item()

    taken: dict[str, list[float]] = {"gantrain": [], "scipy": []}
    values: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, compute in (("gantrain", gantrain), ("scipy", scipy_sqrtm)):
            seconds, values[name] = timed(compute)
            taken[name].append(seconds)
    for name, seconds_of_rounds in taken.items():
        rounds = ", ".join(f"{seconds:.2f}" for seconds in seconds_of_rounds)
        print(f"{name:9} {statistics.median(seconds_of_rounds):7.2f} s (rounds: {rounds}), value {values[name]:.12g}")
    ratios = [theirs / ours for ours, theirs in zip(taken["gantrain"], taken["scipy"], strict=True)]
    print(f"scipy's time / gantrain's: {statistics.median(ratios):.2f} (lowest {min(ratios):.2f})")


def make_moments(num: int, dimensions: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return mean [d] and covariance [d, d] of features whose deviations range over three orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.logspace(0, -3, dimensions, dtype=torch.float64)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64) / dimensions**0.5
    x = torch.randn(num, dimensions, generator=generator, dtype=torch.float64) * deviations @ mixing
    return x.mean(0), torch.cov(x.T)


def timed(compute: Callable[[], float]) -> tuple[float, float]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    value = compute()
    return time.perf_counter() - start, value


if __name__ == "__main__":
    main()
