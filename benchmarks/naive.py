"""Train with the loop of most public scripts, as a baseline for gantrain.

A data loader decodes and transforms each image, latents are drawn on the host and copied to the device, the critic has
a forward pass each for real, generated and interpolated samples, generated samples are not detached from G, every
update reads its losses from the device, optimizers are not fused, and everything is float32.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from cases import CASES, Case, Turns, composed, make_arrays, make_files, networks, penalty_weight
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gantrain.engine.cores import num_cores

NUM_WORKERS = num_cores()


class Images(Dataset[Tensor]):
    """Image files or arrays, opened and transformed one by one; they repeat until there are `num` samples."""

    def __init__(self, items: Any, num: int, transform: Any):
        self.items, self.num, self.transform = items, num, transform

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> Tensor:
        item = self.items[i % len(self.items)]
        image = Image.open(item).convert("RGB") if isinstance(item, Path) else Image.fromarray(item)
        return self.transform(image)


def batches(name: str, case: Case, batch_size: int, folder: Path) -> Iterator[Tensor]:
    """Yield batches forever."""
    if case.source == "numbers":
        while True:
            yield torch.randn(batch_size, 1) + 3
    channels, size, _ = case.image_shape
    steps = [transforms.Resize((size, size)), transforms.ToTensor()]
    steps = [*steps, transforms.Normalize([0.5] * channels, [0.5] * channels)]
    if case.source == "files":
        make_files(folder)
    items = sorted(folder.glob("*.jpg")) if case.source == "files" else make_arrays(name, case)
    images = Images(items, case.num_images, transforms.Compose(steps))
    loader = DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=NUM_WORKERS, drop_last=True)
    while True:
        yield from loader


def gradient_penalty(D: nn.Module, real: Tensor, fake: Tensor, weight: float) -> Tensor:
    """Compute the gradient penalty; generated samples are not detached here either."""
    epsilon = torch.rand(len(real), *[1] * (real.dim() - 1)).to(real.device)
    interpolated = (epsilon * real + (1 - epsilon) * fake).requires_grad_(True)
    scores = D(interpolated)
    (gradient,) = torch.autograd.grad(
        outputs=scores,
        inputs=interpolated,
        grad_outputs=torch.ones(scores.size()).to(real.device),
        create_graph=True,
        retain_graph=True,
    )
    return weight * ((gradient.view(len(real), -1).norm(2, dim=1) - 1) ** 2).mean()


def main() -> None:
    """Run the steps that compare.py asks for."""
    name = sys.argv[1]
    case = CASES[name]
    config = composed(case, *sys.argv[2:])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state, latent, _ = networks(case, config, device)
    G, D, G_ema = state.G, state.D, state.G_ema
    lr, betas = config.optimizer["lr"], tuple(map(float, config.optimizer["betas"]))
    G_optimizer = torch.optim.Adam(G.parameters(), lr=lr, betas=betas)
    D_optimizer = torch.optim.Adam(D.parameters(), lr=lr, betas=betas)
    weight, batch_size, n_critic = penalty_weight(config), config.batch_size, config.n_critic
    wasserstein = "wasserstein" in config.loss["_target_"]
    bce = nn.BCEWithLogitsLoss()
    log: list[tuple[float, ...]] = []

    with tempfile.TemporaryDirectory() as folder:
        data = batches(name, case, batch_size, Path(folder) / "images")
        for _ in Turns(device):
            for _ in range(n_critic):
                real = next(data).to(device)
                fake = G(latent(batch_size, device=torch.device("cpu")).to(device))
                D_optimizer.zero_grad()
                real_scores, fake_scores = D(real), D(fake)
                if wasserstein:
                    D_loss = fake_scores.mean() - real_scores.mean()
                else:
                    ones, zeros = torch.ones(batch_size).to(device), torch.zeros(batch_size).to(device)
                    D_loss = bce(real_scores, ones) + bce(fake_scores, zeros)
                total = D_loss + (gradient_penalty(D, real, fake, weight) if weight else 0)
                total.backward()
                D_optimizer.step()
                row = (D_loss.item(), real_scores.mean().item(), fake_scores.mean().item(), total.item())
            G_optimizer.zero_grad()
            scores = D(G(latent(batch_size, device=torch.device("cpu")).to(device)))
            G_loss = -scores.mean() if wasserstein else bce(scores, torch.ones(batch_size).to(device))
            G_loss.backward()
            G_optimizer.step()
            if G_ema is not None:
                decay = 0.5 ** (batch_size / config.ema_halflife_images)
                for average, current in zip(G_ema.parameters(), G.parameters(), strict=True):
                    average.data.mul_(decay).add_(current.data * (1 - decay))
            log.append((*row, G_loss.item()))


if __name__ == "__main__":
    main()
