"""The gradient of a critic in its input, with a graph of its own: gradient penalties are functions of it.

Torch's backward pass through such a gradient does needless work, which is avoided here; the numbers are the same.
The second derivative of a piecewise linear activation is zero, but torch passes on a tensor of zeros, for which every
layer before the activation then computes two products. And it computes the gradient in a convolution's weight as a
convolution with an image-sized kernel. For convolutions the idea is that of Karras 2020 (StyleGAN2-ADA).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from gantrain.losses.base import Logits, Scalar
from gantrain.regularizers.base import Critic, Labels

aten = torch.ops.aten


def input_gradient(
    critic: Callable[..., Logits], x: Float[Tensor, "n *shape"], *labels: Labels
) -> Float[Tensor, "n *shape"]:
    """Compute the gradient of each sample's logit in that sample; it can be differentiated in the critic's parameters.

    Args:
        critic: is called as critic(x, *labels). It is the sum of its logits that is differentiated, so that a critic
            in which samples influence each other (minibatch standard deviation) adds their terms.
        x: is detached from its graph.
        labels: none for a critic of one argument; otherwise one, which may be None.
    """
    x = x.detach().requires_grad_()
    with TwiceDifferentiable() as operations:
        scores = critic(x, *labels).sum()
    with operations.in_inputs_alone():
        (gradient,) = torch.autograd.grad(scores, x, create_graph=True)
    return gradient


def gradient_norms(critic: Critic, x: Float[Tensor, "n *shape"], labels: Labels) -> Float[Tensor, " n"]:
    """Compute the Euclidean norm of each sample's gradient."""
    norms: Tensor = torch.linalg.vector_norm(input_gradient(critic, x, labels).flatten(1), dim=1)
    return norms


def mean_squared_gradient_norm(critic: Critic, x: Float[Tensor, "n *shape"], labels: Labels) -> Scalar:
    """Compute the mean over the batch of the squared norm of each sample's gradient."""
    return input_gradient(critic, x, labels).square().flatten(1).sum(1).mean()


class TwiceDifferentiable(TorchFunctionMode):
    """Replaces the backward passes of ReLU, leaky ReLU and 2-D convolutions by ones that are cheap to differentiate.

    Attributes:
        for_inputs: whether only the gradient in the input is computed, as in the first of the two backward passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.for_inputs = False
        self.instead: dict[Any, Callable[..., Tensor]] = {
            nn.functional.relu: self.relu,
            torch.relu: self.relu,
            nn.functional.leaky_relu: self.leaky_relu,
            torch.conv2d: self.conv2d,
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.instead.get(function, function)(*args, **(kwargs or {}))

    @contextmanager
    def in_inputs_alone(self) -> Iterator[None]:
        """Compute no gradients of parameters while the block runs."""
        self.for_inputs = True
        try:
            yield
        finally:
            self.for_inputs = False

    @staticmethod
    def relu(input: Tensor, inplace: bool = False) -> Tensor:
        """Compute what torch's does; in place it is torch's own."""
        made: Tensor = nn.functional.relu(input, inplace) if inplace else _ReLU.apply(input)
        return made

    @staticmethod
    def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
        """Compute what torch's does; in place it is torch's own."""
        if inplace:
            return nn.functional.leaky_relu(input, negative_slope, inplace)
        made: Tensor = _LeakyReLU.apply(input, negative_slope)
        return made

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
        """Compute what torch's does."""
        if isinstance(padding, str) or input.dim() != 4:
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        pairs = [[n] * 2 if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
        made: Tensor = _Convolution.apply(input, weight, bias, self, (*pairs, False, [0, 0], groups))
        return made


# The slope of these activations is constant on either side of 0, so the derivative of the backward pass in x is 0.


class _ReLU(Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        made = torch.relu(x)
        context.save_for_backward(made)  # and not x, as torch does, so that x may be changed in place
        return made

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        (made,) = context.saved_tensors
        return aten.threshold_backward(gradient, made.detach(), 0)


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
        made: Tensor = aten.convolution(x, weight, bias, *options)
        return made

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        x, weight = context.saved_tensors
        in_x, in_weight, in_bias, *_ = context.needs_input_grad
        of_x = _InputGradient.apply(gradient, weight, x.detach(), context.options) if in_x else None
        wanted = [False, in_weight and not context.mode.for_inputs, in_bias and not context.mode.for_inputs]
        of_weight = of_bias = None
        if any(wanted):
            _, of_weight, of_bias = aten.convolution_backward(
                gradient, x, weight, context.bias_shape, *context.options, wanted
            )
        return of_x, of_weight, of_bias, None, None


class _InputGradient(Function):
    """Computes a convolution's gradient in its input, which is linear in the output's gradient and in the weight."""

    @staticmethod
    def forward(context: Any, gradient: Tensor, weight: Tensor, x: Tensor, options: Any) -> Tensor:
        context.save_for_backward(gradient, weight)
        context.options = options
        made: Tensor = aten.convolution_backward(gradient, x, weight, None, *options, [True, False, False])[0]
        return made

    @staticmethod
    def backward(context: Any, change: Tensor) -> Any:
        gradient, weight = context.saved_tensors
        in_gradient, in_weight, *_ = context.needs_input_grad
        of_gradient = aten.convolution(change, weight, None, *context.options) if in_gradient else None
        of_weight = None
        if in_weight:
            of_weight = aten.convolution_backward(
                gradient, change, weight, None, *context.options, [False, True, False]
            )[1]
        return of_gradient, of_weight, None, None
