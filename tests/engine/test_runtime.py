"""The choice of precision, layout and acceleration, and the accuracy of each compared with float32."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from image_runs import CPU, CUDA, advance, images, make_state
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam

from gantrain.config import RuntimeConfig
from gantrain.datasets.batches import Batch, Batches, ImageBatches, Prefetcher, make_batches
from gantrain.engine.runtime import Runtime, choose
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models import mlp
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_gradient import input_gradient
from gantrain.train import TrainState, train

AUTO = RuntimeConfig(
    device="auto",
    precision="auto",
    acceleration="auto",
    layout="auto",
    data="auto",
    threads="auto",
    num_workers=None,
)

# Choice


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def vectors_state() -> TrainState:
    common: dict[str, Any] = {"width": 4, "multipliers": [1], "slope": 0.2, "init": "default"}
    G = mlp.Generator((2,), 4, activation="relu", norm="none", output="linear", **common)
    D = mlp.Discriminator((2,), activation="relu", norm="none", dropout=0.0, **common)
    return TrainState(G, D, Adam(G.parameters()), Adam(D.parameters()))


def test_auto_is_float32_and_eager_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    assert choose(AUTO, CPU, make_state(), [], batch_size=8) == Runtime(device=CPU)
    assert not caplog.records


@pytest.mark.usefixtures("gpu")
def test_auto_uses_bf16_graphs_and_channels_last_on_a_gpu() -> None:
    parts = [Wasserstein(), Normal(z_dim=8), GradientPenalty(weight=10.0, every=1)]
    fast = choose(AUTO, CUDA, make_state(), parts, batch_size=8)
    assert fast == Runtime(device=CUDA, precision="bf16", acceleration="graph", layout="channels_last")
    assert str(fast) == "bf16, CUDA graphs, channels last"
    vectors = choose(AUTO, CUDA, vectors_state(), parts, batch_size=8)
    assert vectors == Runtime(device=CUDA, precision="float32", acceleration="graph", layout="contiguous")


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("precision", name) for name in ("float32", "tf32", "bf16")),
        *(("acceleration", name) for name in ("eager", "graph")),
        *(("layout", name) for name in ("contiguous", "channels_last")),
    ],
)
def test_each_option_can_be_chosen_by_name(option: str, name: str) -> None:
    assert getattr(choose(replace(AUTO, **{option: name}), CUDA, make_state(), [], batch_size=8), option) == name


@pytest.mark.parametrize("option", ["precision", "acceleration", "layout"])
def test_unknown_option_names_are_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"runtime.{option}=fast: must be one of auto, "):
        choose(replace(AUTO, **{option: "fast"}), CPU, make_state(), [], batch_size=8)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, None, "many"])
def test_invalid_numbers_of_threads_are_refused(threads: object) -> None:
    with pytest.raises(ConfigError, match=rf"runtime.threads={threads}: must be auto, or a whole number, at least 1"):
        choose(replace(AUTO, threads=threads), CPU, make_state(), [], batch_size=8)


def test_tiny_networks_use_one_thread() -> None:
    """As in experiment=gaussian, with 1,121 and 449 parameters; convolutions and large networks use all threads."""

    def threads(state: TrainState, batch_size: int, device: torch.device = CPU) -> int | None:
        wanted = replace(AUTO, precision="float32", acceleration="eager")
        return choose(wanted, device, state, [], batch_size=batch_size).threads

    assert threads(vectors_state(), 128) == 1
    assert threads(vectors_state(), 10**6) is None
    assert threads(make_state(), 1) is None
    assert threads(vectors_state(), 128, CUDA) is None
    three = choose(replace(AUTO, threads=3), CPU, vectors_state(), [], batch_size=8)
    assert str(three) == "float32, 3 threads"


def test_number_of_threads_is_restored_after_training() -> None:
    usual = torch.get_num_threads()
    with Runtime(device=CPU, threads=usual + 1).threaded():
        assert torch.get_num_threads() == usual + 1
    assert torch.get_num_threads() == usual
    with pytest.raises(ZeroDivisionError), Runtime(device=CPU, threads=usual + 1).threaded():
        _ = 1 / 0
    assert torch.get_num_threads() == usual
    with Runtime(device=CPU).threaded():
        assert torch.get_num_threads() == usual


class Own(Regularizer):
    """A regularizer defined outside of gantrain."""


class Counting(Regularizer):
    """Keeps its state in a Python number."""

    def __init__(self) -> None:
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}


class CountingInTensors(Regularizer):
    """Keeps its state in a tensor, which replays update."""

    def state_dict(self) -> dict[str, Any]:
        return {"updates": torch.zeros(())}


class OwnAdam(Adam):
    """An optimizer defined outside of gantrain."""


def test_auto_does_not_choose_emulated_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a V100, emulated bf16 is slower than float32."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert choose(AUTO, CUDA, make_state(), [], batch_size=8).precision == "float32"


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("device", "wanted", "optimizer", "parts", "option", "instead", "reason"),
    [
        (CPU, {"acceleration": "graph"}, Adam, [], "acceleration", "eager", "CUDA graphs need a CUDA device"),
        (CPU, {"precision": "tf32"}, Adam, [], "precision", "float32", "cpu has no tf32"),
        (torch.device("mps"), {"precision": "bf16"}, Adam, [], "precision", "float32", "mps has no bf16"),
        (CUDA, {"acceleration": "auto"}, Adagrad, [], "acceleration", "eager", "optimizer Adagrad cannot be captured"),
        (CUDA, {"acceleration": "graph"}, Adagrad, [], "acceleration", "eager", "optimizer Adagrad cannot be captured"),
        (CUDA, {"acceleration": "auto"}, OwnAdam, [], "acceleration", "eager", "OwnAdam is your own code"),
        (CUDA, {"acceleration": "auto"}, Adam, [Own()], "acceleration", "eager", "Own is your own code"),
        (CUDA, {"acceleration": "graph"}, Adam, [Own()], "acceleration", "graph", None),
        (CUDA, {"acceleration": "auto"}, SGD, [], "acceleration", "graph", None),
        (
            CUDA,
            {"acceleration": "graph"},
            SGD,
            [Counting()],
            "acceleration",
            "eager",
            "Counting keeps state in Python numbers",
        ),
        (CUDA, {"acceleration": "graph"}, SGD, [CountingInTensors()], "acceleration", "graph", None),
    ],
)
def test_unavailable_options_are_replaced_with_a_warning(
    caplog: pytest.LogCaptureFixture,
    device: torch.device,
    wanted: dict[str, str],
    optimizer: Callable[..., torch.optim.Optimizer],
    parts: Sequence[object],
    option: str,
    instead: str,
    reason: str | None,
) -> None:
    state = make_state()
    state.D_optimizer = optimizer(state.D.parameters(), lr=1e-3)
    assert getattr(choose(replace(AUTO, **wanted), device, state, parts, batch_size=8), option) == instead
    assert len(caplog.records) == (reason is not None)
    if reason is not None:
        assert f"runtime.{option}=" in caplog.text
        assert reason in caplog.text
        assert f"; using {instead}" in caplog.text


# bf16


def test_networks_run_in_bf16_and_penalties_in_float32() -> None:
    state, dtypes = make_state(), list[tuple[bool, torch.dtype]]()
    convolution = next(m for m in state.D.modules() if isinstance(m, nn.Conv2d))

    def note(_: nn.Module, inputs: tuple[Tensor, ...], made: Tensor) -> None:
        dtypes.append((inputs[0].requires_grad and inputs[0].is_leaf, made.dtype))

    convolution.register_forward_hook(note)
    advance(state, Runtime(device=CPU, precision="bf16"), steps=1)
    assert set(dtypes) == {(False, torch.bfloat16), (True, torch.float32)}  # only the input of the penalty is a leaf
    assert {p.dtype for p in (*state.G.parameters(), *state.D.parameters())} == {torch.float32}
    assert {p.grad.dtype for p in state.D.parameters() if p.grad is not None} == {torch.float32}


def gradients_of_a_step(runtime: Runtime, dtype: torch.dtype, player: str) -> Tensor:
    """Return the gradients of a player in one step with a learning rate of 0."""
    state = make_state(width=8, dtype=dtype, fused=False)
    state.G_optimizer, state.D_optimizer = (SGD(net.parameters(), lr=0.0) for net in (state.G, state.D))
    default = torch.get_default_dtype()
    noise = torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pixels = make_batches(images(), batch_size=8, seed=0, device=CPU)[0].x

    class OneBatch:
        batch_size = 8

        def __getitem__(self, i: int) -> Batch:
            return Batch(pixels.to(dtype))

        def for_generator(self) -> Batches:
            raise NotImplementedError

    objective = Objective(Wasserstein(), {"penalty": Between(weight=10.0, every=1)})
    torch.set_default_dtype(dtype)
    try:
        train(
            state, OneBatch(), lambda n, device: noise.to(dtype), objective,
            steps=1, n_critic=lambda _: 1, seed=0, device=CPU, precision=runtime.run,
            accelerate=runtime.accelerate(state),
        )  # fmt: skip
    finally:
        torch.set_default_dtype(default)
    return torch.cat([p.grad.double().flatten() for p in getattr(state, player).parameters() if p.grad is not None])


class Between(GradientPenalty):
    """The gradient penalty at the midpoints, because each dtype draws other random numbers."""

    def discriminator_penalty(self, critic: Any, batch: Any) -> Tensor:
        gradient = input_gradient(critic, torch.lerp(batch.fake, batch.real, 0.5), batch.labels)
        return self.weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize(
    ("runtime", "most"),
    [
        (Runtime(device=CPU), 1e-5),
        (Runtime(device=CPU, layout="channels_last"), 1e-5),
        (Runtime(device=CPU, precision="bf16"), 0.1),  # 8 bits of precision through six layers with BatchNorm
    ],
    ids=str,
)
@pytest.mark.parametrize("player", ["G", "D"])
def test_gradients_of_a_step_are_close_to_float64(runtime: Runtime, most: float, player: str) -> None:
    exact = gradients_of_a_step(Runtime(device=CPU), torch.float64, player)
    found = gradients_of_a_step(runtime, torch.float32, player)
    assert exact.norm() > 1e-3
    assert float((found - exact).norm() / exact.norm()) < most


@pytest.mark.parametrize(
    ("runtime", "most"),
    [(Runtime(device=CPU, layout="channels_last"), 0.02), (Runtime(device=CPU, precision="bf16"), 0.1)],
    ids=str,
)
def test_losses_of_100_steps_are_close_to_float32(runtime: Runtime, most: float) -> None:
    """Compare the mean distance of the curves, because single steps diverge, as between float32 kernels."""
    options: dict[str, Any] = {"steps": 100, "n_critic": lambda _: 1}
    plain, fast = advance(make_state(), Runtime(device=CPU), **options), advance(make_state(), runtime, **options)
    for tag in ("loss/discriminator", "penalty/gradient_penalty"):
        one, other = ([row[tag] for row in rows] for rows in (plain, fast))
        scale = statistics.mean(map(abs, one))
        assert statistics.mean(abs(a - b) for a, b in zip(one, other, strict=True)) < most * scale


# Data


def test_prefetched_batches_equal_the_batches() -> None:
    batches = ImageBatches(images(20), batch_size=8, seed=0, device=CPU)
    ahead = Prefetcher(ImageBatches(images(20), batch_size=8, seed=0, device=CPU))
    for i in [0, 1, 2, 3, 4, 40, 41, 3, 4]:
        assert torch.equal(ahead[i].x, batches[i].x)
    assert sorted(ahead.in_flight) == [5, 6]
