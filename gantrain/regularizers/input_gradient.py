"""The gradient of a critic with respect to its input, which gradient penalties differentiate again.

In torch, that second backward pass does needless work, which is avoided here; the results are the same. The second
derivative of a piecewise linear activation is 0, but torch backpropagates a tensor of zeros, for which each earlier
layer computes two matrix products. And torch computes the gradient of a convolution's weight as a convolution with an
image-sized kernel. The idea for convolutions is that of Karras 2020 (StyleGAN2-ADA, released code).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from gantrain.datasets.labels import Labels
from gantrain.losses.base import Logits, Scalar

aten = torch.ops.aten


def input_gradient(
    critic: Callable[..., Logits], x: Float[Tensor, "n *shape"], *labels: Labels
) -> Float[Tensor, "n *shape"]:
    """Compute the gradient of the sum of logits with respect to the samples.

    It is differentiable with respect to the critic's parameters. If the critic does not couple samples, it is the
    gradient of each sample's logit with respect to that sample.

    Args:
        critic: called as critic(x, *labels).
        x: detached before use.
        labels: nothing for a critic with one argument; otherwise the labels, or None.
    """
    return gradients_by_logit(critic, x, *labels).view_as(x)


def gradients_by_logit(
    critic: Callable[..., Logits], x: Float[Tensor, "n *shape"], *labels: Labels
) -> Float[Tensor, "m d"]:
    """Compute the gradient of each logit with respect to its input: one sample, or with packing n / m samples.

    Args:
        critic: as in input_gradient, with m logits for n samples; n is a multiple of m.
    """
    x = x.detach().requires_grad_()
    with TwiceDifferentiable() as operations:
        logits = critic(x, *labels)
        total = logits.sum()
    with operations.inputs_only():
        (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    return gradient.reshape(len(logits), -1)


def gradient_norms(critic: Callable[..., Logits], x: Float[Tensor, "n *shape"], labels: Labels) -> Float[Tensor, " m"]:
    """Compute the Euclidean norm of each logit's gradient with respect to its sample or, with packing, its pack."""
    norms: Tensor = torch.linalg.vector_norm(gradients_by_logit(critic, x, labels), dim=1)
    return norms


def mean_squared_gradient_norm(critic: Callable[..., Logits], x: Float[Tensor, "n *shape"], labels: Labels) -> Scalar:
    """Compute the mean over the logits of the squared norm of their gradients."""
    return gradients_by_logit(critic, x, labels).square().sum(1).mean()


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces ReLU, leaky ReLU and 2-D convolutions by versions whose backward pass is cheap to differentiate.

    Attributes:
        skip_parameters: whether backward passes compute gradients with respect to inputs only, not parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        self.skip_parameters = False
        self.replacements: dict[Any, Callable[..., Tensor]] = {
            nn.functional.relu: self.relu,
            torch.relu: self.relu,
            nn.functional.leaky_relu: self.leaky_relu,
            torch.conv2d: self.conv2d,
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replacements.get(function, function)(*args, **(kwargs or {}))

    @contextmanager
    def inputs_only(self) -> Iterator[None]:
        """Compute no gradients of parameters while the block runs."""
        self.skip_parameters = True
        try:
            yield
        finally:
            self.skip_parameters = False

    @staticmethod
    def relu(input: Tensor, inplace: bool = False) -> Tensor:
        """Compute nn.functional.relu, by torch itself if in place."""
        output: Tensor = nn.functional.relu(input, inplace) if inplace else _ReLU.apply(input)
        return output

    @staticmethod
    def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        """Compute nn.functional.leaky_relu, by torch itself if in place."""
        if inplace:
            return nn.functional.leaky_relu(input, negative_slope, inplace)
        output: Tensor = _LeakyReLU.apply(input, negative_slope)
        return output

    def conv2d(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        """Compute torch.conv2d."""
        if isinstance(padding, str) or input.dim() != 4:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        pairs = [[n] * 2 if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
        output: Tensor = _Convolution.apply(input, weight, bias, self, (*pairs, False, [0, 0], groups))
        return output


# The slope of these activations is constant on either side of 0, so the derivative of their backward pass with respect
# to x is 0.


class _ReLU(Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        output = torch.relu(x)
        context.save_for_backward(output)  # as in torch; not x, because later layers may change x in place
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        (output,) = context.saved_tensors
        return aten.threshold_backward(gradient, output.detach(), 0)


class _LeakyReLU(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, slope: float) -> Tensor:
        context.save_for_backward(x)
        context.slope = slope
        return nn.functional.leaky_relu(x, slope)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        (x,) = context.saved_tensors
        return aten.leaky_relu_backward(gradient, x.detach(), context.slope, False), None


class _Convolution(Function):
    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mode: Any, options: Any) -> Tensor:
        context.save_for_backward(x, weight)
        context.mode, context.options = mode, options
        context.bias_shape = None if bias is None else list(bias.shape)
        output: Tensor = aten.convolution(x, weight, bias, *options)
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        x, weight = context.saved_tensors
        in_x, in_weight, in_bias, *_ = context.needs_input_grad
        of_x = _InputGradient.apply(gradient, weight, x.detach(), context.options) if in_x else None
        skip = context.mode.skip_parameters
        wanted = [False, in_weight and not skip, in_bias and not skip]
        of_weight = of_bias = None
        if any(wanted):
            _, of_weight, of_bias = aten.convolution_backward(
                gradient, x, weight, context.bias_shape, *context.options, wanted
            )
        return of_x, of_weight, of_bias, None, None


class _InputGradient(Function):
    """A convolution's gradient with respect to its input: linear in the gradient of its output and in its weight."""

    @staticmethod
    def forward(context: Any, gradient: Tensor, weight: Tensor, x: Tensor, options: Any) -> Tensor:
        context.save_for_backward(gradient, weight)
        context.options = options
        output: Tensor = aten.convolution_backward(gradient, x, weight, None, *options, [True, False, False])[0]
        return output

    @staticmethod
    def backward(context: Any, grad_output: Tensor) -> Any:
        gradient, weight = context.saved_tensors
        in_gradient, in_weight, *_ = context.needs_input_grad
        of_gradient = aten.convolution(grad_output, weight, None, *context.options) if in_gradient else None
        of_weight = None
        if in_weight:
            of_weight = aten.convolution_backward(
                gradient, grad_output, weight, None, *context.options, [False, True, False]
            )[1]
        return of_gradient, of_weight, None, None
