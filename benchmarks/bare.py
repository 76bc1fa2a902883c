"""The least PyTorch code that does gantrain's arithmetic: what gantrain's own weight is measured against.

One batch that lies on the device, noise made there, no logging, no pictures, no checkpoints.
"""

import sys

import torch
from cases import CASES, Turns, composed, networks, penalty_weight

from gantrain.models.layers import has_batch_norm


def main() -> None:
    """Train when it is this program's turn."""
    case = CASES[sys.argv[1]]
    config = composed(case)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, latent, loss = networks(case, config, device)
    G, D, G_ema, G_optimizer, D_optimizer = state.G, state.D, state.G_ema, state.G_optimizer, state.D_optimizer
    n, weight, n_critic = config["batch_size"], penalty_weight(config), config["n_critic"]
    apart = has_batch_norm(D)
    x = torch.rand(n, *case.image_shape, device=device) * 2 - 1

    for _ in Turns(device):
        for _ in range(n_critic):
            with torch.no_grad():
                fake = G(latent(n, device=device))
            real_logits, fake_logits = (D(x), D(fake)) if apart else D(torch.cat([x, fake])).split(n)
            D_loss = loss.discriminator(real_logits, fake_logits)
            if weight:
                mixed = torch.lerp(fake, x, torch.rand(n, *[1] * (x.dim() - 1), device=device)).requires_grad_()
                (gradient,) = torch.autograd.grad(D(mixed).sum(), mixed, create_graph=True)
                D_loss = D_loss + weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()
            D_optimizer.zero_grad()
            D_loss.backward()
            D_optimizer.step()
        D.requires_grad_(False)
        G_loss = loss.generator(D(G(latent(n, device=device))))
        G_optimizer.zero_grad()
        G_loss.backward()
        G_optimizer.step()
        D.requires_grad_(True)
        if G_ema is not None:
            share = 1 - 0.5 ** (n / config["ema_halflife_images"])
            torch._foreach_lerp_(list(G_ema.parameters()), list(G.parameters()), share)


if __name__ == "__main__":
    main()
