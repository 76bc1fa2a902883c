"""input_gradient equals torch.autograd.grad, with fewer operations."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gantrain.models import dcgan, mlp, study
from gantrain.models.layers import ActivationName
from gantrain.regularizers.input_gradient import TwiceDifferentiable, input_gradient

ACTIVATIONS = ActivationName.__args__  # type: ignore[attr-defined]


def plain(critic: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient


class Unusual(nn.Module):
    """Kinds of convolutions that DCGAN does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 6, (3, 5), stride=(1, 2), padding=(0, 2), bias=True),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3),
            nn.LeakyReLU(0.3, inplace=True),
            nn.Conv2d(6, 4, 3, padding="same", bias=False),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 3, 1),
            nn.Flatten(),
            nn.LazyLinear(1),
            nn.Flatten(0),
        )

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(x)
        return scores


class Residual(nn.Module):
    """Reads tensors again after an activation changed them in place, as some published residual blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(2, 4, 3, padding=1), *(nn.Conv2d(4, 4, 3, padding=1) for _ in "ab")]
        )
        self.score = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.convolutions
        x = first(x)
        bent = torch.relu(x)
        x.mul_(0.5)
        x = second(bent) + x
        x = second(nn.functional.relu(x, True)) + x
        x = third(nn.functional.leaky_relu(x, 0.3, inplace=True)) + x
        scores: Tensor = self.score(x.mean((2, 3))).squeeze(1)
        return scores


def critic(name: str, activation: str = "leaky_relu") -> tuple[nn.Module, tuple[int, ...]]:
    common: dict[str, Any] = {"activation": activation, "slope": 0.2, "init": "default"}
    torch.manual_seed(0)
    if name == "mlp":
        return mlp.Discriminator((5,), width=7, multipliers=[1, 2], norm="none", dropout=0.0, **common), (5,)
    if name == "study":
        return study.StridedCritic((1, 28, 28), width=3, slope=0.01, init="default"), (1, 28, 28)
    if name in ("unusual", "residual"):
        return Unusual() if name == "unusual" else Residual(), (2, 9, 11)
    norm = name.removeprefix("dcgan with ")
    return dcgan.Discriminator((3, 16, 16), width=4, norm=norm, bias="all", **common), (3, 16, 16)


NAMES = ["dcgan with none", "dcgan with layer", "dcgan with instance", "mlp", "study", "unusual", "residual"]


@pytest.mark.parametrize("penalty", ["one-centered", "R1"])
@pytest.mark.parametrize(
    ("name", "activation"),
    [*((name, "leaky_relu") for name in NAMES), *(("dcgan with none", a) for a in ACTIVATIONS), ("mlp", "relu")],
)
def test_gradients_equal_those_of_torch(name: str, activation: str, penalty: str) -> None:
    network, shape = critic(name, activation)
    x = torch.randn(6, *shape, dtype=torch.float64)
    network.double()(x)  # initializes lazy layers
    network.double()

    def gradients(differentiate: Callable[[Any, Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        slope = differentiate(network, x)
        norms = slope.flatten(1).norm(dim=1)
        loss = ((norms - 1) if penalty == "one-centered" else norms).square().mean()
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        pairs = zip(found, network.parameters(), strict=True)
        return slope, [torch.zeros_like(p) if g is None else g for g, p in pairs]

    (slope, found), (expected_slope, expected) = gradients(input_gradient), gradients(plain)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-12, atol=1e-14)
    assert max(float(g.abs().max()) for g in expected) > 1e-4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)


def test_each_operation_passes_finite_differences() -> None:
    """First and second derivatives with respect to x, weight and bias, away from the kinks of the activations."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    with TwiceDifferentiable():
        conv: Any = lambda x, w, b: torch.conv2d(x, w, b, stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)  # noqa: E731
        inputs = (draw(2, 4, 5, 6), draw(6, 2, 3, 2), draw(6))
        assert torch.autograd.gradcheck(conv, inputs)
        assert torch.autograd.gradgradcheck(conv, inputs)
        for activation in (nn.functional.relu, torch.relu, lambda x: nn.functional.leaky_relu(x, 0.2)):
            x = draw(40)
            x.data = torch.where(x.abs() < 0.01, torch.full_like(x, 0.5), x)
            assert torch.autograd.gradcheck(activation, (x,))
            assert torch.autograd.gradgradcheck(activation, (x,))


def test_function_mode_ends_with_the_gradient() -> None:
    network, shape = critic("dcgan with none")
    before = network(torch.ones(2, *shape))
    input_gradient(network, torch.ones(2, *shape))
    after = network(torch.ones(2, *shape))
    assert type(after.grad_fn) is type(before.grad_fn)
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    after.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.kernels: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name == "convolution_backward":
            for kind, wanted in zip(("input", "weight", "bias"), args[-1], strict=True):
                self.names[f"gradient in {kind}"] += wanted
        else:
            self.names[name] += 1
        if name == "convolution":
            self.kernels.append(args[1].shape[-1])
        return function(*args, **(kwargs or {}))


def test_products_known_to_be_zero_are_not_computed() -> None:
    """Two forward passes, one backward pass and one product per weight suffice; torch computes many more."""
    network, shape = critic("dcgan with none")
    num_layers = sum(isinstance(m, nn.Conv2d) for m in network.modules())

    def calls(differentiate: Callable[[Any, Tensor], Tensor]) -> Calls:
        with Calls() as calls:
            differentiate(network, torch.ones(2, *shape)).square().sum().backward()
        return calls

    found, torchs = calls(input_gradient), calls(plain)
    assert found.names["convolution"] == 2 * num_layers - 1  # the gradient of the last layer's output is 1
    assert found.names["gradient in input"] == num_layers
    assert found.names["gradient in weight"] == num_layers
    assert max(found.kernels) == 4
    assert torchs.names["gradient in weight"] + torchs.names["convolution"] > 3.5 * num_layers
    assert torchs.names["gradient in input"] > 1.5 * num_layers
