"""The fast ways of running a step compute what the plain one does; without a GPU, CUDA graphs are played by a tape."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gantrain.config import RuntimeConfig
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, Batches, ImageBatches, Prefetcher, make_batches
from gantrain.ema import EMA
from gantrain.engine import graphs
from gantrain.engine.graphs import EAGER_CALLS, Captured
from gantrain.engine.runtime import Runtime, choose
from gantrain.errors import ConfigError
from gantrain.game import Objective
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.relativistic import Relativistic
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models import dcgan, mlp
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_gradient import input_gradient
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.r1 import R1
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.schedules.base import Clock
from gantrain.train import TrainState, train
from gantrain.updates import Logs

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (3, 16, 16)
AUTO = RuntimeConfig(
    device="auto",
    precision="auto",
    acceleration="auto",
    layout="auto",
    data="auto",
    threads="auto",
    num_workers=None,
)
PENALTY: dict[str, Regularizer] = {"gradient_penalty": GradientPenalty(weight=10.0, every=1)}
NOISE: dict[str, Regularizer] = {"input_noise": InputNoise(std=0.5), "label_noise": LabelNoise(amount=0.5)}


def make_state(
    *, norm: str = "none", width: int = 4, dtype: torch.dtype = torch.float32, fused: bool = True
) -> TrainState:
    torch.manual_seed(0)
    common: dict[str, Any] = {"width": width, "init": "dcgan", "bias": "ends", "slope": 0.2}
    G = dcgan.Generator(SHAPE, 8, activation="relu", norm="batch", **common).to(dtype)
    D = dcgan.Discriminator(SHAPE, activation="leaky_relu", norm=norm, **common).to(dtype)
    G_ema = deepcopy(G).requires_grad_(False)
    optimizers = [Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.9), fused=fused) for net in (G, D)]
    return TrainState(G, D, *optimizers, G_ema)


def images(num: int = 64) -> ImageDataset:
    pixels = torch.randint(0, 256, (num, *SHAPE), generator=torch.Generator().manual_seed(0)).byte()
    return ImageDataset("noise", pixels, labels=None, num_classes=None, fingerprint="f")


class Interrupted(Exception):
    pass


def advance(
    state: TrainState,
    way: Runtime,
    *,
    steps: int,
    until: int | None = None,
    then: Callable[[TrainState], None] = lambda state: None,
    **options: Any,
) -> list[dict[str, float]]:
    """Train, perhaps not to the end, do something after each step, and return what was observed at each."""
    seen: list[dict[str, float]] = []

    def look(now: TrainState, logs: Logs) -> None:
        seen.append({tag: float(torch.as_tensor(value).mean()) for tag, value in logs.items()})
        then(now)
        if now.step == until:
            raise Interrupted

    way.prepare(state)
    objective = Objective(options.pop("loss", Wasserstein()), options.pop("regularizers", PENALTY))
    defaults: dict[str, Any] = {"n_critic": lambda _: 2}
    with suppress(Interrupted):
        train(
            state,
            make_batches(images(), batch_size=8, seed=0, device=CPU),
            Normal(z_dim=8),
            objective,
            steps=steps,
            seed=0,
            device=CPU,
            ema=EMA(halflife_images=100.0, rampup=None),
            precision=way.run,
            accelerate=way.accelerate(state),
            callbacks=[look],
            **defaults | options,
        )
    return seen


def snapshot(state: TrainState) -> dict[str, Any]:
    parts = {"G": state.G, "D": state.D, "G_ema": state.G_ema, "of_G": state.G_optimizer, "of_D": state.D_optimizer}
    return deepcopy({name: part.state_dict() for name, part in parts.items() if part is not None})


def restored(saved: dict[str, Any], **options: Any) -> TrainState:
    state = make_state(**options)
    parts = {"G": state.G, "D": state.D, "G_ema": state.G_ema, "of_G": state.G_optimizer, "of_D": state.D_optimizer}
    for name, part in parts.items():
        assert part is not None
        part.load_state_dict(saved[name])
    return state


# What is chosen


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def vectors_state() -> TrainState:
    common: dict[str, Any] = {"width": 4, "multipliers": [1], "slope": 0.2, "init": "default"}
    G = mlp.Generator((2,), 4, activation="relu", norm="none", output="linear", **common)
    D = mlp.Discriminator((2,), activation="relu", norm="none", dropout=0.0, **common)
    return TrainState(G, D, Adam(G.parameters()), Adam(D.parameters()))


def test_auto_is_plain_on_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    assert choose(AUTO, CPU, make_state(), [], batch_size=8) == Runtime(device=CPU)
    assert not caplog.records


@pytest.mark.usefixtures("gpu")
def test_auto_is_fast_on_a_gpu() -> None:
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
def test_each_way_is_had_by_its_name(option: str, name: str) -> None:
    assert getattr(choose(replace(AUTO, **{option: name}), CUDA, make_state(), [], batch_size=8), option) == name


@pytest.mark.parametrize("option", ["precision", "acceleration", "layout"])
def test_a_wrong_name_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"runtime.{option}=fast: must be one of auto, "):
        choose(replace(AUTO, **{option: "fast"}), CPU, make_state(), [], batch_size=8)


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, None, "many"])
def test_a_wrong_number_of_threads_is_refused(threads: object) -> None:
    with pytest.raises(ConfigError, match=rf"runtime.threads={threads}: must be auto, or a whole number, at least 1"):
        choose(replace(AUTO, threads=threads), CPU, make_state(), [], batch_size=8)


def test_tiny_networks_are_left_to_one_thread() -> None:
    """As those of experiment=gaussian, of 1,121 and 449 parameters; what convolves or is large is shared out."""

    def threads(state: TrainState, batch_size: int, device: torch.device = CPU) -> int | None:
        wanted = replace(AUTO, precision="float32", acceleration="eager")
        return choose(wanted, device, state, [], batch_size=batch_size).threads

    assert threads(vectors_state(), 128) == 1
    assert threads(vectors_state(), 10**6) is None
    assert threads(make_state(), 1) is None
    assert threads(vectors_state(), 128, CUDA) is None
    three = choose(replace(AUTO, threads=3), CPU, vectors_state(), [], batch_size=8)
    assert str(three) == "float32, 3 threads"


def test_the_number_of_threads_holds_while_training_alone() -> None:
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
    """Defined outside of gantrain, as a user's is."""


class Counting(Regularizer):
    """Remembers a number, as a penalty at every 16th update does."""

    def __init__(self) -> None:
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}


class CountingInTensors(Regularizer):
    """Counts where a replay counts too."""

    def state_dict(self) -> dict[str, Any]:
        return {"updates": torch.zeros(())}


class OwnAdam(Adam):
    """Likewise."""


def test_auto_takes_no_bf16_that_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a V100, where it is slower than float32."""
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
def test_what_cannot_be_had_is_said(
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
    assert set(dtypes) == {(False, torch.bfloat16), (True, torch.float32)}  # the penalty's input alone is a leaf
    assert {p.dtype for p in (*state.G.parameters(), *state.D.parameters())} == {torch.float32}
    assert {p.grad.dtype for p in state.D.parameters() if p.grad is not None} == {torch.float32}


def gradients_of_a_step(way: Runtime, dtype: torch.dtype, player: str) -> Tensor:
    """Of one update of both, whose weights stay."""
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
            steps=1, n_critic=lambda _: 1, seed=0, device=CPU, precision=way.run, accelerate=way.accelerate(state),
        )  # fmt: skip
    finally:
        torch.set_default_dtype(default)
    return torch.cat([p.grad.double().flatten() for p in getattr(state, player).parameters() if p.grad is not None])


class Between(GradientPenalty):
    """The gradient penalty at half-way points: the noise of other dtypes is another."""

    def discriminator_penalty(self, critic: Any, batch: Any) -> Tensor:
        gradient = input_gradient(critic, torch.lerp(batch.fake, batch.real, 0.5), batch.labels)
        return self.weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize(
    ("way", "most"),
    [
        (Runtime(device=CPU), 1e-5),
        (Runtime(device=CPU, layout="channels_last"), 1e-5),
        (Runtime(device=CPU, precision="bf16"), 0.1),  # 8 bits, six layers deep, through batch normalization
    ],
    ids=str,
)
@pytest.mark.parametrize("player", ["G", "D"])
def test_the_gradients_of_a_step_are_those_of_float64(way: Runtime, most: float, player: str) -> None:
    exact = gradients_of_a_step(Runtime(device=CPU), torch.float64, player)
    found = gradients_of_a_step(way, torch.float32, player)
    assert exact.norm() > 1e-3
    assert float((found - exact).norm() / exact.norm()) < most


@pytest.mark.parametrize(
    ("way", "most"),
    [(Runtime(device=CPU, layout="channels_last"), 0.02), (Runtime(device=CPU, precision="bf16"), 0.1)],
    ids=str,
)
def test_the_losses_of_200_steps_are_those_of_plain_float32(way: Runtime, most: float) -> None:
    """Compared by the curves' distance: single steps drift apart, as they do from one float32 kernel to another."""
    options: dict[str, Any] = {"steps": 200, "n_critic": lambda _: 1}
    plain, fast = advance(make_state(), Runtime(device=CPU), **options), advance(make_state(), way, **options)
    for tag in ("loss/discriminator", "penalty/gradient_penalty"):
        one, other = ([row[tag] for row in rows] for rows in (plain, fast))
        scale = statistics.mean(map(abs, one))
        assert statistics.mean(abs(a - b) for a, b in zip(one, other, strict=True)) < most * scale


# Captured graphs


class Tape(TorchDispatchMode):
    """What a CUDA graph is: the operations as they were asked for, on the memory that they were given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, made))
        return made

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, held in self.calls:
            given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            made = function(*args, **kwargs)
            for place, value in zip(tree_leaves(held), tree_leaves(made), strict=True):
                if isinstance(place, Tensor) and place.untyped_storage().data_ptr() not in given:
                    place.copy_(value)


class Tapes:
    """Stands for the capture: what is recorded is not done, and what it changed while recording is put back."""

    def __init__(self, state: TrainState):
        self.state, self.captured = state, 0

    def record(self, function: Callable[[], Logs], _: torch.device) -> tuple[Callable[[], None], Logs]:
        saved, random = snapshot(self.state), torch.get_rng_state()
        parameters = [*self.state.G.parameters(), *self.state.D.parameters()]
        gradients = [(p.grad, p.grad.clone()) for p in parameters if p.grad is not None]
        with Tape() as tape:
            made = function()
        for held, value in gradients:
            held.copy_(value)
        for name, part in {"G": self.state.G, "D": self.state.D}.items():
            part.load_state_dict(saved[name])  # in place, as the tape needs it
        for name, optimizer in {"of_G": self.state.G_optimizer, "of_D": self.state.D_optimizer}.items():
            for i, moments in enumerate(optimizer.state.values()):
                for moment, value in moments.items():
                    value.copy_(saved[name]["state"][i][moment])
        torch.set_rng_state(random)
        self.captured += 1
        return tape.replay, made


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainState], Tapes]:
    def use(state: TrainState) -> Tapes:
        tapes = Tapes(state)
        monkeypatch.setattr(graphs, "record", tapes.record)
        monkeypatch.setattr(graphs, "on_side_stream", lambda function, device: function())
        # A CPU's optimizers count their steps in tensors when fused, and know no captures.
        monkeypatch.setattr(Runtime, "prepare", lambda self, state: None)
        return tapes

    return use


GRAPH = Runtime(device=CPU, acceleration="graph")


def lazy_r1() -> dict[str, Any]:
    return {"loss": Relativistic(), "regularizers": {"r1": R1(gamma=1.0, every=2)}, "n_critic": lambda _: 1}


@pytest.mark.parametrize(
    ("norm", "options", "graphs"),
    [
        ("none", {}, 2),
        ("batch", {"loss": NonSaturating(), "regularizers": {}, "n_critic": lambda _: 1}, 2),
        ("none", {"regularizers": {"weight_clip": WeightClip(limit=0.05)}}, 2),
        ("none", {"n_critic": lambda step: 7 if step % 5 == 0 else 2}, 2),
        ("none", lazy_r1(), 3),  # a graph for each phase
        ("none", lazy_r1() | {"accumulate": 2}, 6),  # and for each micro-batch of it
    ],
    ids=["wgan_gp", "dcgan", "weight clipping", "warm-up of the critic", "lazy r1", "lazy r1 and micro-batches"],
)
def test_replays_are_the_steps_to_the_bit(
    tapes: Callable[..., Tapes], norm: str, options: dict[str, Any], graphs: int
) -> None:
    plain, fast = make_state(norm=norm), make_state(norm=norm)
    seen = advance(plain, Runtime(device=CPU), steps=12, **options)
    deck = tapes(fast)
    assert advance(fast, GRAPH, steps=12, **options) == seen
    assert deck.captured == graphs
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)


def test_a_captured_step_sees_the_training_progress(tapes: Callable[..., Tapes]) -> None:
    options: dict[str, Any] = {"steps": 12, "regularizers": NOISE}
    plain, fast = make_state(), make_state()
    seen = advance(plain, Runtime(device=CPU), **options)
    tapes(fast)
    replayed = advance(fast, GRAPH, **options)
    for one, other in zip(seen, replayed, strict=True):  # the noise's size is a float32 number in a graph
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("cut", [2, 7])
@pytest.mark.parametrize("regularizers", [PENALTY, NOISE], ids=["penalty", "noise that decays"])
def test_a_run_goes_on_within_another_capture(
    tapes: Callable[..., Tapes], regularizers: dict[str, Regularizer], cut: int
) -> None:
    """Its first updates are eager, where the straight run's were replays: they must see the same numbers."""
    options: dict[str, Any] = {"steps": 14, "regularizers": regularizers}
    plain = make_state()
    tapes(plain)
    seen = advance(plain, GRAPH, **options)
    first = make_state()
    tapes(first)
    before = advance(first, GRAPH, until=cut, **options)
    second = restored(snapshot(first))
    second.step, second.batches_seen = first.step, first.batches_seen
    deck = tapes(second)
    assert before + advance(second, GRAPH, **options) == seen
    assert deck.captured == 2
    torch.testing.assert_close(snapshot(second), snapshot(plain), atol=0, rtol=0)


def test_what_cannot_be_captured_stays_eager(
    tapes: Callable[..., Tapes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, fast = make_state(), make_state()
    seen = advance(plain, Runtime(device=CPU), steps=8)
    tapes(fast)

    def refuse(function: Callable[[], Logs], _: torch.device) -> Any:
        try:
            raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr(graphs, "record", refuse)
    assert advance(fast, GRAPH, steps=8) == seen
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "The critic's update could not be captured as a CUDA graph; all updates stay eager: operation not permitted "
        "when stream is capturing"
    ]


def test_after_a_failed_capture_no_graph_is_replayed(
    tapes: Callable[..., Tapes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The critic's, which was captured before, would go on with the random numbers of its last step."""
    state = make_state()
    deck, replays = tapes(state), list[int]()

    def record(function: Callable[[], Logs], device: torch.device) -> Any:
        if deck.captured:
            raise RuntimeError("out of memory")
        replay, made = deck.record(function, device)
        return lambda: (replay(), replays.append(state.step)), made

    monkeypatch.setattr(graphs, "record", record)
    plain = make_state()
    seen = advance(plain, Runtime(device=CPU), steps=8)
    assert advance(state, GRAPH, steps=8) == seen
    assert replays
    assert max(replays) == EAGER_CALLS  # in the step in which the generator's update is to be captured


@pytest.mark.parametrize(
    ("changes", "n_critic", "captures"),
    [([8], 2, 4), ([8, 12], 2, 5), ([16, 18], 2, 5), (range(1, 30), 2, 0), (range(1, 30), 7, 2)],
)
def test_a_learning_rate_that_changes_is_that_of_the_step(
    tapes: Callable[..., Tapes], changes: Sequence[int], n_critic: int, captures: int
) -> None:
    """It is a constant in a graph; where it changes at every step, nothing is captured again and again."""

    def descend(state: TrainState) -> None:
        if state.step in changes:
            for optimizer in (state.G_optimizer, state.D_optimizer):
                optimizer.param_groups[0]["lr"] *= 0.5

    plain, fast = make_state(), make_state()
    options: dict[str, Any] = {"steps": 30, "then": descend, "n_critic": lambda _: n_critic}
    seen = advance(plain, Runtime(device=CPU), **options)
    deck = tapes(fast)
    assert advance(fast, GRAPH, **options) == seen
    torch.testing.assert_close(snapshot(fast), snapshot(plain), atol=0, rtol=0)
    assert deck.captured == captures


def test_the_first_updates_are_real_ones(tapes: Callable[..., Tapes]) -> None:
    state = make_state()
    deck = tapes(state)
    calls = []

    def update(batch: Batch, clock: Clock) -> Logs:
        calls.append(batch.x)
        return {"x": batch.x + clock.fraction}

    captured = Captured(update, device=CPU, optimizers=[], failures=[])
    for i in range(EAGER_CALLS + 4):
        assert float(captured(Batch(torch.tensor([float(i)])), Clock(0.5, i))["x"]) == i + 0.5
    assert len(calls) == EAGER_CALLS + 1
    assert deck.captured == 1


# Layout and data


def test_batches_brought_ahead_are_the_batches() -> None:
    batches = ImageBatches(images(20), batch_size=8, seed=0, device=CPU)
    ahead = Prefetcher(ImageBatches(images(20), batch_size=8, seed=0, device=CPU))
    for i in [0, 1, 2, 3, 4, 40, 41, 3, 4]:
        assert torch.equal(ahead[i].x, batches[i].x)
    assert sorted(ahead.in_flight) == [5, 6]
