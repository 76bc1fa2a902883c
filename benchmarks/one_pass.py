"""Measure D's update with R1 and R2 from the forward pass of the loss against passes of their own, in turn.

    python benchmarks/one_pass.py [--rounds 15]

Prints the median CPU time of each (one thread, an update without the optimizer), and their ratio.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from cases import Case, composed

from gantrain.assemble import build_discriminator, build_generator, build_latent, build_objective
from gantrain.config import Config
from gantrain.datasets.batches import Batch
from gantrain.game import Game
from gantrain.schedules.base import Clock

CLOCK = Clock(0.0, 0)
BOTH = ("loss=relativistic", "regularizer=[r1,r2]", "model.discriminator.norm=none")
ROWS = 16
CASES: dict[str, tuple[Sequence[str], Sequence[int], int | None]] = {
    "the default run": (["experiment=digits"], (1, 28, 28), 10),
    "DCGAN, 64 px": (["model=dcgan", *BOTH], (3, 64, 64), None),
    "DCGAN, 64 px, DiffAugment": (["model=dcgan", *BOTH, "augment=[diffaugment]"], (3, 64, 64), None),
    "R3GAN, 32 px, width 64": (["model=r3gan", "model.discriminator.width=64", "augment=[]"], (3, 32, 32), None),
}


def main() -> None:
    """Measure all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print("| case | own passes | one pass | ratio |\n|---|---|---|---|")
    for name, (overrides, image_shape, num_classes) in CASES.items():
        config = composed(Case(tuple(overrides), tuple(image_shape), "arrays", ROWS))
        game, real = prepare(config, image_shape, num_classes)
        for shares_pass in (False, True) * 2:
            milliseconds(game, real, shares_pass=shares_pass)
        turns = [[milliseconds(game, real, shares_pass=shares) for shares in (False, True)] for _ in range(rounds)]
        own, one = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(one / own for own, one in turns)
        print(f"| {name} | {own:,.1f} ms | {one:,.1f} ms | {ratio:.2f} |", flush=True)


def prepare(config: Config, image_shape: Sequence[int], num_classes: int | None) -> tuple[Game, Batch]:
    """Make the game of a config with small generated images, and a batch of noise as real images."""
    latent = build_latent(config.latent)
    G = build_generator(config.model["generator"], image_shape, latent, num_classes)
    D = build_discriminator(config.model["discriminator"], image_shape, num_classes)
    for network in (G, D):
        network.to(memory_format=torch.channels_last)
    game = Game(
        *(G, D, build_objective(config)),
        generator_rows=ROWS,
        precision=lambda network: network,
        latent=latent,
        fake_labels=None if num_classes is None else lambda _, y: y,
        device=torch.device("cpu"),
    )
    y = None if num_classes is None else torch.arange(ROWS) % num_classes
    return game, Batch(torch.randn(ROWS, *image_shape), y)


def milliseconds(game: Game, real: Batch, *, shares_pass: bool) -> float:
    """Return the CPU time of D's loss, its penalties and all gradients; generating samples is not part of it."""
    game.shares_pass = shares_pass
    batch = game.critic_batch(real, CLOCK)
    game.D_module.zero_grad()
    start = time.process_time()
    loss = game.discriminator_loss(batch)
    (loss + sum(game.discriminator_penalties(batch).values())).backward()
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    main()
