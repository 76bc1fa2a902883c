"""The number of operators of a step does not grow, and none of them waits for the device."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gantrain.callbacks.base import Callback, Callbacks
from gantrain.callbacks.checkpoint import Checkpoint
from gantrain.callbacks.csv import MetricsCSV
from gantrain.callbacks.evaluate import Evaluate
from gantrain.callbacks.log import Log
from gantrain.callbacks.progress import Progress
from gantrain.callbacks.samples import Samples
from gantrain.callbacks.tensorboard import TensorBoard
from gantrain.config import CheckpointConfig, Config
from gantrain.datasets.base import ImageDataset
from gantrain.datasets.batches import make_batches
from gantrain.ema import EMA
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.engine.runtime import Runtime
from gantrain.evaluation.evaluator import Evaluator
from gantrain.game import Objective
from gantrain.losses.base import Loss
from gantrain.losses.nonsaturating import NonSaturating
from gantrain.losses.wasserstein import Wasserstein
from gantrain.models.dcgan import Discriminator, Generator
from gantrain.models.latent import Normal
from gantrain.regularizers.base import Regularizer
from gantrain.regularizers.gradient_penalty import GradientPenalty
from gantrain.session.run import Run
from gantrain.train import TrainState, train

CPU = torch.device("cpu")
SHAPE = (3, 16, 16)

# Operators and methods that copy numbers to the host, so that the step would wait for a GPU. The methods dispatch no
# operator on a CPU. Others, for example .to(torch.device("cpu")), are found on the meta device (test_experiments.py).
WAITING = (
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "allclose", "lift_fresh"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "histogram", "repeat_interleave"),
    "_linalg_check_errors",
)
WAITING_CALLS = (
    "item",
    "tolist",
    "numpy",
    "cpu",
    "__array__",
    "__repr__",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
)


class Calls(TorchDispatchMode):
    """Counts the operators that are dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        self.names[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Records the methods that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        # The training passes a torch.device, which is the CPU here; a string "cpu" is a copy to the host.
        is_moved = name == "to" and "cpu" in [x for x in (*args[1:], *(kwargs or {}).values()) if isinstance(x, str)]
        is_masked = name in ("__getitem__", "__setitem__", "index_put_", "index_put") and any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
        )
        if name in WAITING_CALLS or is_moved or is_masked:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


WAITS = """
x.sum().item(); x.tolist(); x.numpy(); x.cpu(); x.to("cpu"); x.to(device="cpu"); np.asarray(x); str(x)
f"{x.sum():.3f}"; bool(x.sum() > 0); float(x.sum()); int(x.sum()); x[x > 0]; x.nonzero(); max(x.sum(), x.sum())
[0, 1][x.sum().long() * 0]; torch.unique(x); torch.unique_consecutive(x); torch.bincount(x.long()); torch.allclose(x, x)
torch.repeat_interleave(x, x.long()); torch.tensor([x.sum(), 1.0]); torch.as_tensor([1.0]); torch.linalg.inv(x.diag())
x.index_put_((x > 0,), x.sum()); torch.equal(x, x); torch.arange(x.sum()); torch.where(x > 0); torch.histogram(x, 3)
""".replace("\n", ";")


@pytest.mark.parametrize("expression", [*filter(None, map(str.strip, WAITS.split(";")))])
def test_waiting_operations_are_detected(expression: str) -> None:
    x = torch.ones(3)
    with Waits() as waits, Calls() as calls:
        eval(expression, {"x": x, "np": np, "torch": torch})
    assert waits.names or {*calls.names} & {*WAITING}


def calls_of_a_step(
    folder: Path, loss: Loss, regularizers: dict[str, Regularizer], *, norm: str, n_critic: int
) -> tuple[Counter[str], list[str]]:
    """Return the operators per step of steps 3 to 5, which only update weights, and those that would wait."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (512, *SHAPE), dtype=torch.uint8)
    common: dict[str, Any] = {"width": 4, "init": "dcgan", "bias": "ends", "slope": 0.2}
    G = Generator(SHAPE, 8, activation="relu", norm="batch", **common)
    D = Discriminator(SHAPE, activation="leaky_relu", norm=norm, **common)
    G_ema = Generator(SHAPE, 8, activation="relu", norm="batch", **common).requires_grad_(False)
    state = TrainState(
        *(G, D),
        torch.optim.Adam(G.parameters(), fused=True),
        torch.optim.Adam(D.parameters(), fused=True),
        G_ema,
    )
    callbacks: list[Callback] = [
        Evaluate(every=100, max_fraction=0.1),
        Log(every=100),
        Samples(every=100, num=4, num_vectors=4),
    ]
    callbacks += [Checkpoint(every=100, keep=1, keep_every=None, best=None), MetricsCSV(), TensorBoard()]
    callbacks.append(Progress(seconds_between_lines=1000))
    objective = Objective(loss, regularizers)
    dataset = ImageDataset("noise", images, labels=None, num_classes=None, fingerprint="f")
    run = Run(
        name="calls",
        folder=folder,
        config=Config(batch_size=8, checkpoint=CheckpointConfig(every=100, keep=1)),
        state=state,
        dataset=dataset,
        latent=Normal(z_dim=8),
        objective=objective,
        runtime=Runtime(device=CPU),
        steps=1000,
        evaluator=Evaluator({}, {}, dataset, device=CPU, folder=None, processes=SINGLE_PROCESS),
        hyperparameters={},
    )
    started = Callbacks(run, callbacks)
    started.start()
    batches = make_batches(dataset, batch_size=8, seed=0, device=CPU)

    def advance(steps: int) -> None:
        train(
            *(state, batches, run.latent, objective),
            steps=steps,
            n_critic=lambda _: n_critic,
            seed=0,
            device=CPU,
            ema=EMA(halflife_images=100.0, rampup=None),
            callbacks=list(started),
        )

    advance(2)  # the first step is logged, and creates the optimizers' moments
    with Waits() as waits, Calls() as calls:
        advance(5)
    started.finish("failed")
    assert all(count % 3 == 0 for count in calls.names.values()), "the steps call different operators"
    counts = Counter({name: count // 3 for name, count in calls.names.items()})
    return counts, [*waits.names, *(name for name in counts if name in WAITING)]


@pytest.mark.parametrize(
    ("loss", "regularizers", "norm", "n_critic", "most"),
    [
        (NonSaturating(), {}, "batch", 1, 165),
        (Wasserstein(), {"gradient_penalty": GradientPenalty(weight=10.0, every=1)}, "none", 5, 653),
    ],
    ids=["dcgan", "wgan_gp"],
)
def test_number_of_operators_per_step_does_not_grow(
    tmp_path: Path, loss: Loss, regularizers: dict[str, Regularizer], norm: str, n_critic: int, most: int
) -> None:
    calls, waits = calls_of_a_step(tmp_path, loss, regularizers, norm=norm, n_critic=n_critic)
    print(calls.total(), "calls")
    assert calls.total() <= most
    assert not waits


THREADS = '''
import os
from gantrain.callbacks.base import Callback, Callbacks

class Threads(Callback):
    """Writes the number of threads of the process after each step."""

    def __call__(self, state, logs):
        with open("threads.txt", "a") as file:
            print(len(os.listdir("/proc/self/task")), file=file)
'''


def test_saving_starts_no_openmp_threads(tmp_path: Path) -> None:
    """A thread that computes with torch starts OpenMP threads of its own, which slow down the training."""
    (tmp_path / "threads.py").write_text(THREADS)
    own = ("trust=[threads]", "+callback.threads._target_=threads.Threads")
    typed = ("batch_size=2", "steps=12", "checkpoint.every=4", "callback=[log,checkpoint]", "runtime.device=cpu")
    command = [sys.executable, "-m", "gantrain", *typed, *own]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "2"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    counts = [int(line) for line in (tmp_path / "threads.txt").read_text().split()]
    assert len(counts) == 12
    assert max(counts) <= counts[2] + 1  # the thread that writes
