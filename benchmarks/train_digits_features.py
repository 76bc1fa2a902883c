"""Train the classifier of features=digits, which is included in the package.

    OMP_NUM_THREADS=1 python benchmarks/train_digits_features.py data gantrain/evaluation/features/digits_weights.npz

It reads MNIST's training images from the folder of the first argument, as dataset=mnist does, and writes the weights to
the file of the second. MNIST's test images, which are dataset=digits, are read only after training, to print the
accuracy. It takes about five minutes on one core; the result depends on the seed, and on the version of torch and the
processor in the last digits. SHA256 in gantrain/evaluation/features/digits.py must then be changed to what is printed.
"""

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from gantrain.datasets.digits import digits
from gantrain.datasets.mnist import mnist
from gantrain.evaluation.features.digits import DigitsNetwork

SEED = 0
EPOCHS = 8
BATCH_SIZE = 100
LR = 3e-3  # at its peak
WARMUP = 0.1  # fraction of the steps
WEIGHT_DECAY = 1e-2
DROPOUT = 0.3
MAX_SHIFT = 2  # pixels


class TrainedNetwork(nn.Module):
    """DigitsNetwork with batch normalization and dropout, which make it train faster and better."""

    def __init__(self) -> None:
        super().__init__()
        self.network = DigitsNetwork()
        channels = [int(convolution.out_channels) for convolution in self.network.convolutions]
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.hidden_norm = nn.BatchNorm1d(128).requires_grad_(False)  # scale 1 and shift 0 stay

    def forward(self, x: Float[Tensor, "n 1 28 28"]) -> Float[Tensor, "n 10"]:
        """Return the logits."""
        pools = (False, True, True)
        for convolution, norm, pools_here in zip(self.network.convolutions, self.norms, pools, strict=True):
            x = norm(convolution(x))
            x = F.relu(F.max_pool2d(x, 2, ceil_mode=True) if pools_here else x)
        x = F.relu(self.hidden_norm(self.network.hidden(x.flatten(1))))
        return self.network.classifier(F.dropout(x, DROPOUT, self.training))

    def folded(self) -> DigitsNetwork:
        """Return the network without normalization, which has the same outputs as this one in evaluation mode."""
        network = self.network.eval()
        for i, norm in enumerate(self.norms):
            network.convolutions[i] = fuse_conv_bn_eval(network.convolutions[i], norm.eval())
        network.hidden = fuse_linear_bn_eval(network.hidden, self.hidden_norm.eval())
        return network


def shift(images: Float[Tensor, "n 1 28 28"], generator: torch.Generator) -> Float[Tensor, "n 1 28 28"]:
    """Shift each image by up to MAX_SHIFT pixels in both directions."""
    padded = F.pad(images, [MAX_SHIFT] * 4)
    windows = padded.unfold(2, 28, 1).unfold(3, 28, 1)
    dy, dx = torch.randint(2 * MAX_SHIFT + 1, (2, len(images)), generator=generator)
    return windows[torch.arange(len(images)), :, dy, dx]


def train(images: Float[Tensor, "n 1 28 28"], labels: Int64[Tensor, " n"]) -> DigitsNetwork:
    """Train with cross-entropy, and return the network with normalization folded into its weights."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = TrainedNetwork().to(memory_format=torch.channels_last)  # almost twice as fast on a CPU
    steps = EPOCHS * (len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=WARMUP)
    for epoch in range(EPOCHS):
        started = time.monotonic()
        for indices in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            loss = F.cross_entropy(model(shift(images[indices], generator)), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: last loss {loss:.4f}, {time.monotonic() - started:.0f} s", flush=True)
    standardize(model, images)
    return model.folded()


@torch.no_grad()
def standardize(model: TrainedNetwork, images: Float[Tensor, "n 1 28 28"]) -> None:
    """Replace the running averages of the normalization by those of all images, unshifted."""
    for norm in (*model.norms, model.hidden_norm):
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    model.train()
    for batch in images.split(1000):
        model(batch)
    model.eval()


@torch.no_grad()
def accuracy(network: DigitsNetwork, images: Float[Tensor, "n 1 28 28"], labels: Int64[Tensor, " n"]) -> float:
    """Return the fraction of images that get their label."""
    predicted = torch.cat([network(batch)[1].argmax(1) for batch in images.split(1000)])
    return (predicted == labels).double().mean().item()


def main() -> None:
    """Train, save and test."""
    data, output = Path(sys.argv[1]), Path(sys.argv[2])
    training = mnist(root=str(data), download=True, image_size=None, cache_dir=str(data / "cache"))
    assert training.labels is not None
    network = train(training.images / 255, training.labels)
    np.savez(output, **{name: x.detach().numpy() for name, x in network.state_dict().items()})
    print(f"SHA256 = {hashlib.sha256(output.read_bytes()).hexdigest()}, {output.stat().st_size:,} bytes")
    test = digits(image_size=None)
    assert test.labels is not None
    print(f"accuracy on the training images: {accuracy(network, training.images / 255, training.labels):.4%}")
    print(f"accuracy on the test images: {accuracy(network, test.images / 255, test.labels):.4%}")


if __name__ == "__main__":
    main()
