"""Train with the least PyTorch code that has gantrain's arithmetic, to measure gantrain's overhead.

It uses one batch that stays on the device, and has no logging, sample grids or checkpoints.
"""

import sys

import torch
from cases import CASES, Turns, composed, networks, penalty_weight
from torch import Tensor

from gantrain.config import Config
from gantrain.game import Objective
from gantrain.models.latent import Latent
from gantrain.models.layers import couples_samples
from gantrain.train import TrainState


def main() -> None:
    """Run the steps that compare.py asks for."""
    case = CASES[sys.argv[1]]
    config = composed(case, *sys.argv[2:])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, latent, objective = networks(case, config, device)
    x = torch.rand(config.batch_size, *case.image_shape, device=device) * 2 - 1
    for _ in Turns(device):
        step(state, latent, objective, x, config)


def step(state: TrainState, latent: Latent, objective: Objective, x: Tensor, config: Config) -> None:
    """Update the critic n_critic times on x [n, ...], then update the generator once."""
    G, D, G_ema, G_optimizer, D_optimizer = state.G, state.D, state.G_ema, state.G_optimizer, state.D_optimizer
    n, loss, weight, separate = len(x), objective.loss, penalty_weight(config), couples_samples(state.D)
    for _ in range(config.n_critic):
        with torch.no_grad():
            fake = G(latent(n, device=x.device))
        real_logits, fake_logits = (D(x), D(fake)) if separate else D(torch.cat([x, fake])).split(n)
        D_loss = loss.discriminator(real_logits, fake_logits)
        if weight:
            interpolated = torch.lerp(fake, x, torch.rand(n, *[1] * (x.dim() - 1), device=x.device)).requires_grad_()
            (gradient,) = torch.autograd.grad(D(interpolated).sum(), interpolated, create_graph=True)
            D_loss = D_loss + weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        D_optimizer.zero_grad()
        D_loss.backward()
        D_optimizer.step()
    D.requires_grad_(False)
    G_loss = loss.generator(D(G(latent(n, device=x.device))))
    G_optimizer.zero_grad()
    G_loss.backward()
    G_optimizer.step()
    D.requires_grad_(True)
    if G_ema is not None:
        update_weight = 1 - 0.5 ** (n / config.ema_halflife_images)
        torch._foreach_lerp_(list(G_ema.parameters()), list(G.parameters()), update_weight)


if __name__ == "__main__":
    main()
