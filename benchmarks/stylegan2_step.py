"""Measure a training step of StyleGAN2 against the straightforward form of its operations, in turn.

    python benchmarks/stylegan2_step.py [--size 64] [--batch 8] [--rounds 5] [--threads 1]

The straightforward form is the one in which the papers describe the operations: weights are modulated for each sample
and applied as a grouped convolution, resampling inserts zeros, pads, filters and drops pixels, and bias, activation,
gain and limit are operations of their own. Both forms have the same weights; before anything is measured, their losses
and gradients are compared. Times are CPU seconds, which other programs disturb less than the time of the clock.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, leaky_relu, pad

from gantrain.losses.nonsaturating import NonSaturating
from gantrain.models import r3gan_parts, stylegan2_parts
from gantrain.models import stylegan2_ops as ops
from gantrain.models.stylegan2 import Discriminator, Generator
from gantrain.regularizers.input_gradient import mean_squared_gradient_norm
from gantrain.regularizers.path_length import path_lengths


def resample(x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, padding: tuple[int, int]) -> Tensor:
    """Insert zeros, pad, filter, and keep every `down`-th row and column."""
    n, c, h, w = x.shape
    if up > 1:
        x = pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = pad(x, (*padding, *padding))
    x = torch.conv2d(x, kernel.flip(2, 3).expand(c, 1, *kernel.shape[2:]), groups=c)
    return x[:, :, ::down, ::down]


def blur(self: ops.Blur, x: Tensor) -> Tensor:
    """Blur.forward in the straightforward form."""
    return resample(x, self.kernel, padding=(self.padding, self.padding))


def upsample(self: r3gan_parts.Upsample, x: Tensor) -> Tensor:
    """Upsample.forward in the straightforward form."""
    return resample(x, self.kernel, up=2, padding=(2, 1))


def downsample(self: r3gan_parts.Downsample, x: Tensor) -> Tensor:
    """Downsample.forward in the straightforward form."""
    return resample(x, self.kernel, down=2, padding=(1, 1))


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    *,
    blur: Callable[[Tensor], Tensor] | None = None,
    demodulate: bool = True,
) -> Tensor:
    """stylegan2_ops.modulated_conv in the straightforward form, with weights of each sample."""
    n, c, h, w = x.shape
    weights = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        weights = weights * (weights.square().sum((2, 3, 4), keepdim=True) + ops.EPS).rsqrt()
    x = x.reshape(1, n * c, h, w)
    if blur is None:
        x = torch.conv2d(x, weights.flatten(0, 1), padding=weight.shape[-1] // 2, groups=n)
    else:
        x = conv_transpose2d(x, weights.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
    x = x.reshape(n, -1, *x.shape[2:])
    return x if blur is None else blur(x)


def styled_conv(self: Any, x: Tensor, w: Tensor, noise: str) -> Tensor:
    """StyledConv.forward in the straightforward form."""
    x = modulated_conv(x, self.weight, self.style(w), blur=self.blur)
    x = x + self.noise(len(x), noise)
    x = leaky_relu(x + self.bias[:, None, None], ops.SLOPE) * ops.GAIN
    return x.clamp(-self.clamp, self.clamp)


def conv(self: ops.Conv, x: Tensor) -> Tensor:
    """Conv.forward in the straightforward form."""
    size = self.kernel_size[0]
    weight = self.weight * (1 / math.sqrt(self.in_channels * size**2))
    if self.down:
        x = self.filter(x)
    x = torch.conv2d(x, weight, stride=2 if self.down and size > 1 else 1, padding=0 if self.down else size // 2)
    if not self.activated:
        return x * self.bias_gain
    x = leaky_relu(x + self.bias[:, None, None], ops.SLOPE) * self.bias_gain
    return x.clamp(-self.clamp, self.clamp)


@contextmanager
def straightforward() -> Iterator[None]:
    """Use the straightforward form while the block runs."""
    replacements: list[tuple[Any, str, Any]] = [
        (ops.Blur, "forward", blur),
        (r3gan_parts.Upsample, "forward", upsample),
        (r3gan_parts.Downsample, "forward", downsample),
        (ops, "modulated_conv", modulated_conv),
        (ops.Conv, "forward", conv),
        (stylegan2_parts.StyledConv, "forward", styled_conv),
    ]
    with ExitStack() as stack:
        for owner, name, function in replacements:
            stack.enter_context(patch.object(owner, name, function))
        yield


class Step:
    """The parts of a training step: the updates of both players, and their lazy penalties."""

    def __init__(self, size: int, batch: int):
        torch.manual_seed(0)
        common: dict[str, Any] = {"width": 512, "full_width_until": 32, "num_bf16_stages": 4, "clamp": 256.0}
        mapping: dict[str, Any] = {"w_dim": 512, "num_mapping_layers": 2, "mapping_lr_multiplier": 0.01}
        shape = (3, size, size)
        # Constant noise, so that both forms can be compared.
        self.G = Generator(shape, 512, style_mixing=0.0, noise="constant", w_avg_decay=0.995, **mapping, **common)
        self.D = Discriminator(shape, architecture="resnet", minibatch_group=4, **common)
        self.optimizers = [torch.optim.Adam(n.parameters(), lr=0.0, betas=(0.0, 0.99), fused=True) for n in self.both]
        self.z, self.real = torch.randn(batch, 512), torch.randn(batch, *shape)
        self.loss, self.is_straightforward = NonSaturating(), False
        self.direction = torch.randn(batch // 2, *shape)

    @property
    def both(self) -> tuple[nn.Module, nn.Module]:
        """Both networks."""
        return self.G, self.D

    def update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
        """Make an optimizer step, and return the loss."""
        for of in self.optimizers:
            of.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def updates(self) -> float:
        """Update G and D."""
        self.D.requires_grad_(False)
        of_G = self.update(self.optimizers[0], self.loss.generator(self.D(self.G(self.z))))
        self.D.requires_grad_(True)
        with torch.no_grad():
            fake = self.G(self.z)
        return of_G + self.update(self.optimizers[1], self.loss.discriminator(self.D(self.real), self.D(fake)))

    def r1(self) -> float:
        """Update D with R1."""
        if not self.is_straightforward:
            return self.update(self.optimizers[1], mean_squared_gradient_norm(lambda x, _: self.D(x), self.real, None))
        x = self.real.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.D(x).sum(), x, create_graph=True)
        return self.update(self.optimizers[1], gradient.square().sum((1, 2, 3)).mean())

    def path_length(self) -> float:
        """Update G with the path length penalty, on half of the batch."""
        styles = self.G.styles(self.z[: len(self.z) // 2])
        with patch("gantrain.regularizers.path_length.own_rows", lambda *_: self.direction):
            lengths = path_lengths(self.G.synthesize, styles)
        return self.update(self.optimizers[0], (lengths - 1).square().mean())


PARTS = {"updates": 1.0, "r1": 1 / 16, "path_length": 1 / 4}
"""How often a step has each part."""


def main() -> None:
    """Compare both forms, measure them in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    step = Step(arguments.size, arguments.batch)
    seconds: dict[str, dict[str, list[float]]] = {form: {part: [] for part in PARTS} for form in ("fast", "plain")}
    for i in range(-1, arguments.rounds):  # round -1 warms up and compares
        values: dict[tuple[str, str], tuple[float, float]] = {}
        for form in seconds:
            with straightforward() if form == "plain" else nullcontext():
                step.is_straightforward = form == "plain"
                for part in PARTS:
                    start = time.process_time()
                    value = getattr(step, part)()
                    if i >= 0:
                        seconds[form][part].append(time.process_time() - start)
                    norms = [p.grad.norm() for net in step.both for p in net.parameters() if p.grad is not None]
                    values[form, part] = value, torch.stack(norms).norm().item()
        for part in PARTS:
            for ours, theirs in zip(values["fast", part], values["plain", part], strict=True):
                if not math.isclose(ours, theirs, rel_tol=1e-3):
                    raise SystemExit(f"{part}: {ours} is not {theirs}, so the two forms are not the same.")
    totals = {
        form: [sum(PARTS[p] * parts[p][i] for p in PARTS) for i in range(arguments.rounds)]
        for form, parts in seconds.items()
    }
    for part in (*PARTS, "step"):
        fast, plain = (totals[form] if part == "step" else seconds[form][part] for form in ("fast", "plain"))
        ratios = [theirs / ours for ours, theirs in zip(fast, plain, strict=True)]
        print(
            f"{part:12} {statistics.median(fast):6.2f} s, straightforward {statistics.median(plain):6.2f} s, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
