"""The operations and layers of StyleGAN2 (Karras 2020) in plain PyTorch, all differentiable twice.

Filtering and resampling are depthwise convolutions, and a modulated convolution scales activations instead of weights,
so one convolution serves the whole batch. The gain of the leaky ReLU, sqrt(2), is applied to its inputs, where it costs
nothing: leaky_relu(gain * x) = gain * leaky_relu(x).
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

import gantrain.seeding as seeding
from gantrain.models import layers
from gantrain.models.precision import full_precision
from gantrain.models.r3gan_parts import Downsample, filter_1331

SLOPE = 0.2
"""Slope of all leaky ReLUs below 0."""

GAIN = math.sqrt(2)
"""Gain of all leaky ReLUs: it keeps the second moment of a symmetric input, apart from the slope."""

EPS = 1e-8


def activate(x: Float[Tensor, "n *shape"], clamp: float | None) -> Float[Tensor, "n *shape"]:
    """Apply the leaky ReLU without gain, and limit the result to [-clamp, clamp]."""
    return limit(nn.functional.leaky_relu(x, SLOPE), clamp)


def limit(x: Float[Tensor, "n *shape"], clamp: float | None) -> Float[Tensor, "n *shape"]:
    """Limit x to [-clamp, clamp].

    Source: Karras 2020 (StyleGAN2-ADA), appendix on mixed-precision training.
    """
    return x if clamp is None else x.clamp(-clamp, clamp)


def normalize_second_moment(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Divide each vector by the root of its mean square."""
    return x * (x.square().mean(1, keepdim=True) + EPS).rsqrt()


class Blur(nn.Module):
    """Apply the filter [1, 3, 3, 1] to height and width, with zeros outside of the image.

    Args:
        gain: factor of the result.
        padding: rows and columns of zeros on each side; the result is larger than x by 2 * padding - 3.
    """

    def __init__(self, *, gain: float, padding: int):
        super().__init__()
        self.padding = padding
        self.register_buffer("kernel", gain * filter_1331(), persistent=False)
        self.kernel: Tensor

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h_out w_out"]:
        """Return the filtered features."""
        c = x.shape[1]
        return torch.conv2d(x, self.kernel.expand(c, 1, 4, 4), padding=self.padding, groups=c)


class Linear(nn.Linear):
    """A linear layer with equalized learning rate: the weights are N(0, 1), and are scaled at run time.

    So Adam's steps, which are as large for every weight, have the same relative size in every layer.

    Source: Karras 2018 (Progressive GAN), section 4.1.

    Args:
        lr_multiplier: the learning rate relative to that of other layers; weights and biases are divided by it at the
            start and multiplied at run time.
        bias_init: bias at the start.
        activated: whether the leaky ReLU and its gain follow.
    """

    def __init__(
        self, num_in: int, num_out: int, *, activated: bool, lr_multiplier: float = 1.0, bias_init: float = 0.0
    ):
        super().__init__(num_in, num_out)
        nn.init.normal_(self.weight, std=1 / lr_multiplier)
        nn.init.constant_(self.bias, bias_init / lr_multiplier)
        self.activated = activated
        gain = GAIN if activated else 1.0
        self.weight_gain, self.bias_gain = gain * lr_multiplier / math.sqrt(num_in), gain * lr_multiplier

    def forward(self, x: Float[Tensor, "*n num_in"]) -> Float[Tensor, "*n num_out"]:
        """Return the outputs."""
        x = nn.functional.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return activate(x, None) if self.activated else x


class LabelEmbedding(nn.Module):
    """A linear layer of one-hot labels with equalized learning rate: a vector [d] for each class, plus a bias.

    Raises:
        ValueError: num_classes is below 1.
    """

    def __init__(self, num_classes: int, dim: int):
        super().__init__()
        layers.check_num_classes(num_classes)
        self.weight = nn.Parameter(torch.randn(dim, num_classes))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, y: Int64[Tensor, " n"]) -> Float[Tensor, "n d"]:
        """Return the vectors of labels."""
        by_class = self.weight.T * (1 / math.sqrt(self.weight.shape[1]))
        return nn.functional.embedding(y, by_class) + self.bias


class Conv(nn.Conv2d):
    """A convolution with equalized learning rate, which may halve height and width; see Linear.

    To halve them, the filter [1, 3, 3, 1] is applied first, and then a convolution with stride 2.

    Args:
        down: whether to halve height and width.
        activated: whether there are a bias and the leaky ReLU with its gain.
        gain: factor of the result.
        clamp: the result is limited to gain * [-clamp, clamp]; None: no limit.
    """

    def __init__(
        self,
        num_in: int,
        num_out: int,
        size: int,
        *,
        down: bool = False,
        activated: bool = True,
        gain: float = 1.0,
        clamp: float | None = None,
    ):
        super().__init__(num_in, num_out, size, bias=activated)
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        gains = gain * GAIN if activated else gain
        self.weight_gain, self.bias_gain = gains / math.sqrt(num_in * size**2), gains
        self.clamp = None if clamp is None else clamp * gain
        self.activated, self.down = activated, down
        if down:
            self.filter: nn.Module = Downsample() if size == 1 else Blur(gain=1.0, padding=2)

    def forward(self, x: Float[Tensor, "n num_in h w"]) -> Float[Tensor, "n num_out h_out w_out"]:
        """Return the features."""
        size = self.kernel_size[0]
        if self.down:
            x = self.filter(x)
        options = {"stride": 2} if self.down and size > 1 else {"padding": size // 2}
        bias = None if self.bias is None else self.bias * self.bias_gain
        x = torch.conv2d(x, self.weight * self.weight_gain, bias, **options)
        return activate(x, self.clamp) if self.activated else x


def modulated_conv(
    x: Float[Tensor, "n num_in h w"],
    weight: Float[Tensor, "num_out num_in k k"],
    styles: Float[Tensor, "n num_in"],
    *,
    blur: nn.Module | None = None,
    demodulate: bool = True,
    gain: float = 1.0,
    bias: Float[Tensor, " num_out"] | None = None,
) -> Float[Tensor, "n num_out h_out w_out"]:
    """Convolve each sample with the weights times its styles, normalized to unit norm for each output channel.

    The styles scale the input channels of activations, the norms the output channels: the result is the same as with
    weights of each sample.

    Source: Karras 2020 (StyleGAN2), section 2.2, equations 1 to 3.

    Args:
        styles: factor of each input channel.
        blur: if given, height and width are doubled by a transposed convolution with stride 2, followed by this filter.
        demodulate: whether to normalize.
        gain: factor of the result, if it is normalized.
        bias: added to the normalized result.
    """
    x = x * styles[:, :, None, None].to(x.dtype)
    if blur is None:
        x = torch.conv2d(x, weight, padding=weight.shape[-1] // 2)
    else:
        # conv_transpose2d uses the kernel as it is, without a reflection; the layout of its weight is transposed.
        x = blur(nn.functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
    if not demodulate:
        return x
    with full_precision(x.device):
        squared_norms = styles.square() @ weight.square().sum((2, 3)).T
        factors = gain * (squared_norms + EPS).rsqrt()
    factors = factors[:, :, None, None].to(x.dtype)
    return x * factors if bias is None else torch.addcmul(bias[:, None, None].to(x.dtype), x, factors)


class MinibatchStdDev(nn.Module):
    """Append channels that tell D how much the samples of a group differ, so that it sees a lack of diversity.

    The batch is that of all processes. Sample i belongs to the group i mod (n / group size). The standard deviation of
    each feature over a group is averaged over channels and pixels.

    Source: Karras 2018 (Progressive GAN), section 3; groups: Karras 2020 (StyleGAN2), released code.

    Args:
        group: number of samples in a group; for fewer samples, or a number that it does not divide, the largest divisor
            of their number below it.
        num_channels: channels to append, each for an equal part of the channels of x.

    Raises:
        ValueError: group is below 1.
    """

    couples_samples = True

    def __init__(self, *, group: int, num_channels: int):
        super().__init__()
        if group < 1:
            raise ValueError(f"minibatch_group={group}: a group has at least 1 sample (4 is usual; CIFAR-10: 32).")
        self.group, self.num_channels = group, num_channels

    def group_size(self, n: int) -> int:
        """Return the number of samples in a group, for a batch of n."""
        return next(size for size in range(min(self.group, n), 0, -1) if n % size == 0)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c_out h w"]:
        """Return x with the channels appended."""
        n, c, h, w = x.shape
        everything = seeding.whole_batch(x)
        size, k = self.group_size(len(everything)), self.num_channels
        groups = everything.reshape(size, -1, k, c // k, h, w)
        deviations = (groups - groups.mean(0)).square().mean(0).add(EPS).sqrt().mean((2, 3, 4))
        channels = deviations.repeat(size, 1)[seeding.shard.rank * n :][:n]
        return torch.cat([x, channels[:, :, None, None].expand(n, k, h, w)], dim=1)
