"""Tests that need a GPU; they are skipped without one."""

import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from gantrain.callbacks.base import Callbacks
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.callbacks.log import Log
from gantrain.config import CheckpointConfig, Config
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import Batch, Batches, make_batches
from gantrain.ema import EMA
from gantrain.engine import graphs
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.engine.graphs import CapturedUpdate
from gantrain.engine.runtime import Runtime
from gantrain.evaluation.evaluator import Evaluator
from gantrain.game import Objective
from gantrain.losses.base import Loss
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.dcgan import Discriminator, Generator
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Critic, Regularizer, UpdateBatch
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.regularizers.input_gradient import input_gradient
from gantrain.regularizers.input_noise import InputNoise
from gantrain.regularizers.label_noise import LabelNoise
from gantrain.regularizers.weight_clip import WeightClip
from gantrain.session.checkpoint import find, tensors
from gantrain.session.run import Run
from gantrain.session.snapshot import capture, restore
from gantrain.train import TrainState, train
from gantrain.updates import Logs, Update

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")
SHAPE = (3, 64, 64)

REFERENCE = Runtime(device=CUDA)
GRAPH = Runtime(device=CUDA, acceleration="graph")
RUNTIMES = [
    REFERENCE,
    Runtime(device=CUDA, precision="tf32"),
    Runtime(device=CUDA, precision="bf16"),
    Runtime(device=CUDA, layout="channels_last"),
    GRAPH,
    Runtime(device=CUDA, precision="bf16", layout="channels_last", acceleration="graph"),
]


def penalty() -> dict[str, Regularizer]:
    return {"gradient_penalty": GradientPenalty(weight=10.0, every=1)}


def noise() -> dict[str, Regularizer]:
    return {"input_noise": InputNoise(std=0.5), "label_noise": LabelNoise(amount=0.5)}


def clipping() -> dict[str, Regularizer]:
    return {"weight_clip": WeightClip(limit=0.01)}


ADAM = partial(torch.optim.Adam, lr=1e-4, betas=(0.0, 0.9), fused=True)


@dataclass(frozen=True)
class Case:
    """A kind of training; `regularizers` makes new ones for each run."""

    loss: Loss = field(default_factory=Wasserstein)
    regularizers: Callable[[], dict[str, Regularizer]] = penalty
    optimizer: Callable[..., torch.optim.Optimizer] = ADAM
    norm: str = "none"
    n_critic: int = 5


CASES = {
    "wgan_gp": Case(),
    "dcgan with noise": Case(loss=NonSaturating(), regularizers=noise, norm="batch", n_critic=1),
    "wgan": Case(regularizers=clipping, optimizer=partial(torch.optim.RMSprop, lr=5e-5)),
    "momentum": Case(regularizers=noise, optimizer=partial(torch.optim.SGD, lr=1e-4, momentum=0.9)),
    "adamw": Case(optimizer=partial(torch.optim.AdamW, lr=1e-4)),
}


def make_run(
    folder: Path, *, width: int, every: int, runtime: Runtime = REFERENCE, case: Case = CASES["wgan_gp"]
) -> Run:
    torch.manual_seed(0)
    torch.backends.cudnn.deterministic = True
    images = torch.randint(0, 256, (512, *SHAPE), dtype=torch.uint8)
    common = {"width": width, "init": "dcgan", "bias": "ends", "slope": 0.2}
    G = Generator(SHAPE, 128, activation="relu", norm="batch", **common).to(CUDA)
    D = Discriminator(SHAPE, activation="leaky_relu", norm=case.norm, **common).to(CUDA)
    folder.mkdir()
    dataset = ImageDataset("noise", images, labels=None, num_classes=None, fingerprint="f")
    run = Run(
        name="gpu",
        folder=folder,
        config=Config(batch_size=64, checkpoint=CheckpointConfig(every=every, keep=2)),
        state=TrainState(
            G, D, case.optimizer(G.parameters()), case.optimizer(D.parameters()), deepcopy(G).requires_grad_(False)
        ),
        dataset=dataset,
        latent=Normal(z_dim=128),
        objective=Objective(case.loss, case.regularizers()),
        runtime=runtime,
        steps=10**6,
        evaluator=Evaluator({}, {}, dataset, device=CUDA, folder=None, processes=SINGLE_PROCESS),
        hyperparameters={},
    )
    Callbacks(run, [Log(every=50), Checkpoint(every=every, keep=2, keep_every=None, best=None)])
    runtime.prepare(run.state)
    return run


def advance(
    run: Run,
    steps: int,
    batches: Batches | None = None,
    look: Callable[..., None] | None = None,
    case: Case = CASES["wgan_gp"],
) -> None:
    """Train up to `steps`, of 200 planned steps."""
    batches = batches or make_batches(run.dataset, batch_size=64, seed=0, device=CUDA)

    def stop(state: TrainState, _: Logs) -> None:
        if state.step == steps:
            raise Interrupted

    callbacks = [look] if look else run.listeners
    with suppress(Interrupted):
        train(
            run.state, batches, run.latent, run.objective, steps=200, n_critic=lambda _: case.n_critic,
            seed=0, device=CUDA, ema=EMA(halflife_images=1000.0, rampup=None), callbacks=[*callbacks, stop],
            precision=run.runtime.run, accelerate=run.runtime.accelerate(run.state),
        )  # fmt: skip


def started(run: Run) -> None:
    for callback in run.listeners:
        callback.start(run)


def finish(run: Run) -> None:
    for callback in reversed(run.listeners):  # begins with Checkpoint
        callback.finish(run.state, "stopped")


class Interrupted(Exception):
    pass


def losses(
    folder: Path,
    runtime: Runtime,
    steps: int,
    case: Case = CASES["wgan_gp"],
    then: Callable[[TrainState], None] = lambda state: None,
) -> torch.Tensor:
    """Train, and return the critic's loss with its penalties, and the generator's loss, at each step: [steps, 2]."""
    rows: list[torch.Tensor] = []

    def look(state: TrainState, logs: Logs) -> None:
        then(state)
        penalties = [value for tag, value in logs.items() if tag.startswith("penalty/")]
        critic = sum(penalties, start=logs["loss/discriminator"])
        rows.append(torch.stack([torch.as_tensor(critic), torch.as_tensor(logs["loss/generator"])]))

    advance(make_run(folder, width=16, every=10**6, runtime=runtime, case=case), steps, look=look, case=case)
    return torch.stack(rows).cpu()


def never_captured(folder: Path, steps: int, case: Case, **options: Any) -> torch.Tensor:
    """Return the losses of the same training when the updates are prepared for capture, but stay eager."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "EAGER_CALLS", 10**9)
        return losses(folder, GRAPH, steps, case, **options)


@pytest.mark.parametrize("case", CASES)
def test_replays_equal_eager_steps_bit_for_bit(tmp_path: Path, case: str) -> None:
    """In float32; the clock is a tensor in both, and noise, moments and running means are the same."""
    fast = losses(tmp_path / "fast", GRAPH, 200, CASES[case])
    plain = never_captured(tmp_path / "plain", 200, CASES[case])
    print(f"{case}: off by {float((fast - plain).abs().max()):.2e}")
    assert torch.equal(fast, plain)
    assert not torch.equal(plain[100], plain[101])


@pytest.mark.parametrize("case", CASES)
def test_replays_change_the_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture, case: str) -> None:
    run = make_run(tmp_path / "run", width=4, every=10**6, runtime=RUNTIMES[-1], case=CASES[case])
    made: list[CapturedUpdate] = []
    weights: list[list[torch.Tensor]] = []

    class Spied(Runtime):
        def accelerate(self, state: TrainState) -> Callable[[Update], Update]:
            def spied(update: Update) -> Update:
                made.append(usual(update))
                return made[-1]

            usual = super().accelerate(state)
            return spied

    run.runtime = Spied(**vars(run.runtime))

    def look(state: TrainState, _: Logs) -> None:
        weights.append([next(network.parameters()).clone() for network in (state.G, state.D)])

    advance(run, 12, look=look, case=CASES[case])
    assert "could not be captured" not in caplog.text
    assert all(captured.graph is not None for captured in made)
    for before, after in pairwise(weights[8:]):
        assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    made.clear()


def test_update_that_cannot_be_captured_stays_eager_with_the_same_losses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Synchronizing(GradientPenalty):
        def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> torch.Tensor:
            made = super().discriminator_penalty(critic, batch)
            made.item()
            return made

    case = Case(regularizers=lambda: {"penalty": Synchronizing(weight=10.0, every=1)})
    plain, fast = (losses(tmp_path / name, runtime, 20, case) for name, runtime in {"a": REFERENCE, "b": GRAPH}.items())
    print(caplog.text)
    assert "update_critic could not be captured as a CUDA graph; all updates stay eager" in caplog.text
    assert torch.equal(fast, plain)

    def reserved() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    before = reserved()
    losses(tmp_path / "c", GRAPH, 20, case)
    print(f"reserved {before:,}, after one more failed capture {reserved():,}")
    assert reserved() < 1.1 * before + 2**20


class Refusing(NonSaturating):
    """A loss whose generator update cannot be captured, after the critic's update has been captured."""

    def generator(self, fake_logits: torch.Tensor) -> torch.Tensor:
        made = super().generator(fake_logits)
        made.item()
        return made


def test_failed_capture_does_not_change_the_random_numbers_of_other_updates(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = replace(CASES["dcgan with noise"], loss=Refusing(), n_critic=2)
    fast, plain = losses(tmp_path / "fast", GRAPH, 40, case), never_captured(tmp_path / "plain", 40, case)
    assert "update_generator could not be captured as a CUDA graph; all updates stay eager" in caplog.text
    assert torch.equal(fast, plain)


def test_captured_updates_use_a_changed_learning_rate(tmp_path: Path) -> None:
    def descend(state: TrainState) -> None:
        if state.step in (20, 21):
            state.D_optimizer.param_groups[0]["lr"] *= 0.1

    case = CASES["wgan_gp"]
    fast = losses(tmp_path / "fast", GRAPH, 40, case, then=descend)
    plain = never_captured(tmp_path / "plain", 40, case, then=descend)
    assert torch.equal(fast, plain)
    assert not torch.equal(plain, never_captured(tmp_path / "other", 40, case))


@pytest.mark.parametrize("runtime", RUNTIMES[1:], ids=str)
def test_losses_of_200_steps_are_close_to_float32(tmp_path: Path, runtime: Runtime) -> None:
    """Compare the mean distance of the curves, because single steps diverge, as they do between float32 kernels."""
    plain, fast = losses(tmp_path / "plain", REFERENCE, 200), losses(tmp_path / "fast", runtime, 200)
    assert torch.isfinite(fast).all()
    most = 1e-3 if runtime.precision == "float32" else 0.15
    first = 5  # before rounding errors grow
    scale = plain.abs().mean(0)
    print(f"{runtime}: first steps {((fast - plain)[:first].abs().mean(0) / scale).tolist()}, all "
          f"{((fast - plain).abs().mean(0) / scale).tolist()}")  # fmt: skip
    assert ((fast - plain)[:first].abs().mean(0) < most * scale).all()
    assert ((fast - plain).abs().mean(0) < 0.3 * scale).all()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=str)
@pytest.mark.parametrize("player", ["G", "D"])
def test_gradients_of_a_step_are_close_to_float64(runtime: Runtime, player: str) -> None:
    """Rounding may move an activation across its kink and so change a gradient; the best of 3 draws counts."""

    def gradients(seed: int, runtime: Runtime, dtype: torch.dtype, updates: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        noise = torch.randn(16, 128, generator=random, dtype=torch.float64)
        pixels = torch.rand(16, *SHAPE, generator=random, dtype=torch.float64) * 2 - 1
        torch.manual_seed(0)
        common = {"width": 16, "init": "dcgan", "bias": "ends", "slope": 0.2}
        G = Generator(SHAPE, 128, activation="relu", norm="layer", **common).to(CUDA, dtype)
        D = Discriminator(SHAPE, activation="leaky_relu", norm="none", **common).to(CUDA, dtype)
        state = TrainState(G, D, *(torch.optim.SGD(net.parameters(), lr=0.0) for net in (G, D)))
        runtime.prepare(state)
        # The gradient penalty draws other random points in float64, so that a fixed point is used.
        halfway = {"penalty": HalfWay(weight=10.0, every=1)}
        codes, x = noise.to(CUDA, dtype), pixels.to(CUDA, dtype)

        class OneBatch:
            batch_size = 16

            def __getitem__(self, i: int) -> Batch:
                return Batch(x)

            def for_generator(self) -> Batches:
                raise NotImplementedError

        train(
            state, OneBatch(), lambda n, device: codes, Objective(Wasserstein(), halfway), steps=updates,
            n_critic=lambda _: 1, seed=0, device=CUDA, precision=runtime.run,
            accelerate=runtime.accelerate(state),
        )  # fmt: skip
        return torch.cat([p.grad.double().flatten() for p in {"G": G, "D": D}[player].parameters()])

    # With a learning rate of 0, the fifth update, which may be a replay, has the gradients of the first.
    errors = []
    for seed in range(3):
        exact, found = gradients(seed, REFERENCE, torch.float64, 1), gradients(seed, runtime, torch.float32, 5)
        errors.append(float((found - exact).norm() / exact.norm()))
    print(f"{runtime}: gradient of {player} off by {', '.join(f'{error:.2e}' for error in errors)}")
    assert min(errors) < {"float32": 1e-5, "tf32": 0.06, "bf16": 0.2}[runtime.precision]
    assert max(errors) < {"float32": 0.01, "tf32": 0.1, "bf16": 0.3}[runtime.precision]


class HalfWay(GradientPenalty):
    def discriminator_penalty(self, critic: Critic, batch: UpdateBatch) -> torch.Tensor:
        gradient = input_gradient(critic, torch.lerp(batch.fake, batch.real, 0.5), batch.labels)
        return self.weight * (gradient.flatten(1).norm(dim=1) - 1).square().mean()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_input_gradient_equals_torch_and_is_faster(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False
    common = {"width": 64, "init": "dcgan", "bias": "ends", "slope": 0.2}
    D = Discriminator(SHAPE, activation="leaky_relu", norm="none", **common).to(CUDA, memory_format=layout)
    x = torch.rand(64, *SHAPE, device=CUDA) * 2 - 1

    def torchs(critic: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        return gradient

    def penalize(differentiate: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        loss = 10 * (differentiate(D, x).flatten(1).norm(dim=1) - 1).square().mean()
        grads = torch.autograd.grad(loss, list(D.parameters()), allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(grads, D.parameters(), strict=True)]

    for one, other in zip(penalize(input_gradient), penalize(torchs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()) + 1e-12)

    def milliseconds(differentiate: Callable[..., torch.Tensor]) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        penalize(differentiate)
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - start)

    taken = [(milliseconds(input_gradient), milliseconds(torchs)) for _ in range(20)][5:]
    ours, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
    print(f"penalty, {layout}: {ours:.2f} ms, torch {theirs:.2f} ms")
    assert ours < theirs


@pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirrored"])
@pytest.mark.parametrize("data_location", ["device", "host"])
def test_batches_equal_those_on_the_cpu(tmp_path: Path, data_location: str, mirror: bool) -> None:
    dataset = make_run(tmp_path / "run", width=4, every=10**6).dataset
    expected = make_batches(dataset, batch_size=64, seed=0, device=torch.device("cpu"), mirror=mirror)
    found = make_batches(dataset, batch_size=64, seed=0, device=CUDA, data_location=data_location, mirror=mirror)
    for i in range(20):  # more than two epochs
        assert torch.equal(found[i].x.cpu(), expected[i].x)


@pytest.mark.parametrize(
    ("case", "runtime", "data_location"),
    [
        *(("wgan_gp", runtime, "device") for runtime in RUNTIMES),
        *((case, runtime, "device") for case in CASES for runtime in (GRAPH, RUNTIMES[-1]) if case != "wgan_gp"),
        *(("wgan_gp", runtime, "host") for runtime in (REFERENCE, RUNTIMES[-1])),
    ],
    ids=str,
)
def test_resumed_run_equals_uninterrupted_run_bit_for_bit(
    tmp_path: Path, case: str, runtime: Runtime, data_location: str
) -> None:
    kind = CASES[case]

    def make(name: str) -> Run:
        return make_run(tmp_path / name, width=16, every=10, runtime=runtime, case=kind)

    def go(run: Run, steps: int) -> None:
        advance(
            run,
            steps,
            make_batches(run.dataset, batch_size=64, seed=0, device=CUDA, data_location=data_location),
            case=kind,
        )

    straight, parts = make("a"), make("b")
    started(straight)
    go(straight, 20)
    finish(straight)
    started(parts)
    go(parts, 10)
    finish(parts)
    again = make("c")
    path, content = find(parts.folder)
    restore(again, content, path)
    started(again)
    go(again, 20)
    # Go back to step 10 once more, as after a divergence, so that updates are captured again.
    again.listeners[-1].wait()
    once = deepcopy(dict(tensors(capture(again))))
    restore(again, find(parts.folder)[1], path)  # read again, because training changes the tensors that were read
    go(again, 20)
    finish(again)
    one, other = (dict(tensors(find(run.folder)[1])) for run in (straight, again))
    assert one.keys() == other.keys() == once.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(one[name], once[name].cpu()) for name in one)


def test_saving_stalls_the_training_by_less_than_a_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", width=64, every=10**6)
    started(run)
    batches = make_batches(run.dataset, batch_size=64, seed=0, device=CUDA)
    advance(run, 10, batches)
    checkpoint = run.listeners[-1]
    assert isinstance(checkpoint, Checkpoint)

    def seconds(save: bool) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        if save:
            checkpoint.save(run.state)
        advance(run, run.state.step + 1, batches)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    plain, saving = [], []
    for _ in range(10):
        plain.append(seconds(save=False))
        saving.append(seconds(save=True))
        checkpoint.wait()
    stall = statistics.median(saving) - statistics.median(plain)
    print(f"step {1e3 * statistics.median(plain):.1f} ms, stall of a checkpoint {1e3 * stall:.1f} ms")
    assert stall < statistics.median(plain)


@pytest.mark.parametrize("data_location", ["device", "host"])
@pytest.mark.parametrize("runtime", [REFERENCE, RUNTIMES[-1]], ids=str)
def test_only_logged_steps_wait_for_the_device(tmp_path: Path, runtime: Runtime, data_location: str) -> None:
    run = make_run(tmp_path / "run", width=16, every=10**6, runtime=runtime)
    started(run)
    batches = make_batches(run.dataset, batch_size=64, seed=0, device=CUDA, data_location=data_location)

    def look(state: TrainState, logs: Logs) -> None:
        # Steps 52 to 89 are not logged, and all captures are made before step 51.
        torch.cuda.set_sync_debug_mode("default" if state.step == 89 or state.step < 51 else "error")
        for callback in run.listeners:
            callback(state, logs)

    try:
        advance(run, 90, batches, look=look)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.state.step == 90


GROUP_OF_ONE = """
import sys
from copy import deepcopy
import torch
import torch.distributed as dist
from gantrain.engine.distributed import average_gradients
from gantrain.engine.batch_norm import synchronize_batch_norm

device, backend = sys.argv[1:]
dist.init_process_group(backend, init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
torch.manual_seed(0)
plain = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.LeakyReLU(0.2)).to(device)
whole = deepcopy(plain)
synchronize_batch_norm(whole)
x = torch.randn(16, 3, 8, 8, device=device)
optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
for network in (plain, whole):
    images = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(network(images).square().mean(), images, create_graph=True)
    (slope.square().sum() + network(x).square().mean()).backward()
average_gradients(optimizer, 1)
for one, other in zip(whole.parameters(), plain.parameters(), strict=True):
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
for one, other in zip(whole.buffers(), plain.buffers(), strict=True):
    torch.testing.assert_close(one, other)
dist.destroy_process_group()
print("done")
"""


def test_nccl_group_of_one_process_changes_nothing() -> None:
    """With one GPU, only test that NCCL accepts the tensors."""
    command = [sys.executable, "-c", GROUP_OF_ONE, "cuda", "cpu:gloo,cuda:nccl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().endswith("done"), done.stderr
