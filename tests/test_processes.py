"""Several processes train as one does; here they are forked with what torchrun would tell them, but for one test."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from processes import BUSY, Process, Result, during, gantrain, server, start, work
from runs import record, rows

from gantrain.engine.batch_norm import normalize_whole_batches
from gantrain.engine.distributed import SINGLE
from gantrain.errors import ConfigError

__all__ = ["gantrain", "server", "start", "work"]

IMAGES = ("model.generator.width=4", "model.discriminator.width=4", "batch_size=8")
NUMBERS = ("dataset=gaussian", "network=mlp", "model.generator.width=8", "model.discriminator.width=8", "batch_size=8")
OFTEN = ("log_every=1", "sample_every=10", "checkpoint.every=10", "evaluate_every=10", "callback.samples.num=4")

LAZY = '''
import torch
from gantrain.regularizers.base import Regularizer

class LazyR1(Regularizer):
    """R1 at every `every`-th update of the critic (Karras 2020, section 2)."""

    def __init__(self, *, weight: float, every: int):
        self.weight, self.every, self.updates = weight, every, 0

    def penalty(self, critic, batch):
        self.updates += 1
        if self.updates % self.every:
            return None
        real = batch.real.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
        return self.every * self.weight / 2 * gradient.flatten(1).square().sum(1).mean()

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates = state["updates"]
'''
LAZY_R1 = (
    "trust=[lazy]",
    "+regularizer.r1._target_=lazy.LazyR1",
    "+regularizer.r1.weight=1.0",
    "+regularizer.r1.every=3",
)
NOISE = ("regularizer=[input_noise,label_noise]",)

Ranks = Callable[..., list[Process]]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def ranks(start: Callable[..., Process]) -> Ranks:
    """Start the command in two processes that know of each other."""

    def begin(*arguments: str, before: dict[int, str] | None = None, num: int = 2) -> list[Process]:
        told = {
            "WORLD_SIZE": num,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "TORCHELASTIC_RUN_ID": "test",
        }

        def environment(rank: int) -> str:
            own = {name: str(value) for name, value in (told | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            return f"import os; os.environ.update({own!r})\n" + (before or {}).get(rank, "")

        return [start(*arguments, before=environment(rank)) for rank in range(num)]

    return begin


def wait(processes: list[Process]) -> list[Result]:
    return [process.wait() for process in processes]


def numbers(run: Path, step: int) -> Iterator[tuple[str, torch.Tensor]]:
    content = torch.load(run / f"checkpoints/step_{step:08d}.pt", weights_only=True)
    for network in ("G", "D", "G_ema"):
        yield from ((f"{network}.{name}", tensor) for name, tensor in (content[network] or {}).items())
    for player in ("G_optimizer", "D_optimizer"):
        for i, moments in content[player]["state"].items():
            yield from ((f"{player}.{i}.{name}", tensor) for name, tensor in moments.items())


def furthest(one: Path, other: Path, step: int) -> float:
    """The largest difference of any number that the checkpoints hold."""
    pairs = zip(numbers(one, step), numbers(other, step), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for (_, a), (_, b) in pairs)


CASES = {
    "wgan_gp": ("model=wgan_gp", "n_critic=2", *IMAGES, "ema_halflife_images=100"),
    "dcgan": ("model=dcgan", *IMAGES, "metric=[]"),
    "lazy penalty": ("model=dcgan", "model.discriminator.norm=none", *IMAGES, *LAZY_R1),
    "statistics over the batch": (
        *("model=dcgan", "loss=ralsgan", "regularizer=[lecam,dragan]", "regularizer.dragan.every=2", *IMAGES),
        *("regularizer.lecam.start=2", "model.discriminator.norm=none", "augment=[diffaugment]"),
    ),
    "labels and lazy r1": (
        *("network=cdcgan", "loss=relativistic", "regularizer=[r1]", "regularizer.r1.every=3", *IMAGES),
        *("model.discriminator.norm=spectral", "model.generator.norm=layer", "accumulate=2", "schedule=[lr]"),
        "fake_labels=empirical",
    ),
    "dropout and noise": ("model=vanilla", *NUMBERS, *NOISE, "metric=[moments]", "model.discriminator.dropout=0.3"),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(gantrain: Any, ranks: Ranks, work: Path, case: str) -> None:
    (work / "lazy.py").write_text(LAZY)
    command = (*CASES[case], *OFTEN, "steps=20")
    alone = gantrain(*command, "run_dir=one")
    assert alone.status == 0, alone.stderr
    leader, follower = wait(ranks(*command, "run_dir=two"))
    assert leader.status == 0, leader.stderr
    assert (follower.status, follower.stderr) == (0, "")
    assert furthest(work / "one", work / "two", 20) < 1e-5
    for mine, theirs in zip(rows(work / "two"), rows(work / "one"), strict=True):
        for tag, value in theirs.items():
            if tag not in ("seconds", "throughput/images_per_second") and value:
                assert float(mine[tag]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), tag
    assert record(work / "two")["processes"] == 2
    assert record(work / "two")["images_seen"] == record(work / "one")["images_seen"]
    assert len(list((work / "two/tensorboard").iterdir())) == 1
    assert {path.name for path in work.iterdir() if path.is_dir()} - {"__pycache__"} == {"one", "two"}


def test_a_run_goes_on_with_another_number_of_processes(gantrain: Any, ranks: Ranks, work: Path) -> None:
    command = ("model=wgan_gp", "n_critic=2", *IMAGES, *OFTEN)
    assert gantrain(*command, "steps=20", "run_dir=straight").status == 0
    assert [r.status for r in wait(ranks(*command, "steps=6", "run_dir=parts"))] == [0, 0]
    assert gantrain("resume=parts", "steps=12").status == 0
    last = wait(ranks("resume=parts", "steps=20", num=4))
    assert [r.status for r in last] == [0] * 4, last[0].stderr
    assert furthest(work / "straight", work / "parts", 20) < 1e-5
    assert [int(row["step"]) for row in rows(work / "parts")] == list(range(1, 21))
    again = wait(ranks("resume=parts", "steps=20"))
    assert [r.status for r in again] == [0, 0]
    assert "is finished (20 steps)" in again[0].stderr


EACH_STEP = "gantrain.tasks.train:StopOnSignal.__call__"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_all_and_the_run_goes_on(gantrain: Any, ranks: Ranks, work: Path, victim: int) -> None:
    command = ("model=wgan_gp", "n_critic=1", *IMAGES, *BUSY, "steps=12", "run_dir=run")
    die = during(EACH_STEP, "os.kill(os.getpid(), signal.SIGKILL)", call=8)
    results = wait(ranks(*command, before={victim: die}))
    assert results[victim].status == -signal.SIGKILL
    assert results[1 - victim].status == 1, results[1 - victim].stderr
    survivor = results[1 - victim].stderr
    assert "gantrain: Another process of this run has died, at step" in survivor
    # The main process, if it lives, waits for what is being written.
    is_saved = bool(victim or list((work / "run/checkpoints").glob("step_*.pt")))
    assert ("Resume with: gantrain resume=run" in survivor) is is_saved
    assert "Traceback" not in survivor
    assert record(work / "run")["status"] == ("failed" if victim else "running")
    assert not victim or results[victim].stderr == ""
    done = gantrain(*command)
    assert done.status == 0, done.stderr
    assert record(work / "run")["status"] == "finished"
    assert [int(row["step"]) for row in rows(work / "run")] == [1, *range(2, 13, 2)]


@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_stops_all_after_the_same_step(ranks: Ranks, work: Path, told: int) -> None:
    command = ("model=dcgan", *IMAGES, *BUSY, "steps=500", "run_dir=run")
    stop = during(EACH_STEP, "os.kill(os.getpid(), signal.SIGTERM)", call=7)
    leader, follower = wait(ranks(*command, before={told: stop}))
    assert (leader.status, follower.status) == (143, 143), leader.stderr
    assert "Stopped by SIGTERM after step" in leader.stderr
    assert follower.stderr == ""
    saved = record(work / "run")
    assert saved["status"] == "stopped"
    assert (work / f"run/checkpoints/step_{saved['steps']:08d}.pt").exists()
    finished = wait(ranks("resume=run", f"steps={saved['steps'] + 3}"))
    assert [r.status for r in finished] == [0, 0], finished[0].stderr


def test_a_divergence_rolls_all_back(ranks: Ranks, work: Path) -> None:
    command = ("model=dcgan", *IMAGES, *BUSY, "steps=12", "log_every=1", "run_dir=run", "on_divergence=rollback")
    spoil = during("gantrain.losses.nonsaturating:NonSaturating.generator", "args[1].mul_(float('nan'))", call=8)
    leader, follower = wait(ranks(*command, before={0: spoil}))
    assert (leader.status, follower.status) == (0, 0), leader.stderr
    assert "Rolled back to step 6, with other random numbers (1 of at most 3 times)" in leader.stderr
    assert follower.stderr == ""
    assert record(work / "run")["status"] == "finished"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "batch_size=7",
            "batch_size=7: 2 processes take equal parts of each batch; start 1, or use batch_size=8.",
        ),
        ("optimizer.lr=-1", "optimizer.lr=-1: a learning rate is a number above 0"),
        ("stepz=3", "stepz"),
        ("-m", "-m: a sweep's runs take a process each, and torchrun started 2 for one run."),
        ("task=sample", "task=sample runs in one process, and torchrun started 2"),
        ("task=benchmark", "task=benchmark runs in one process, and torchrun started 2"),
        ("init_from=nowhere", "nowhere has no checkpoint"),
    ],
)
def test_a_mistake_is_told_once(ranks: Ranks, work: Path, typed: str, message: str) -> None:
    leader, follower = wait(ranks(*IMAGES, "steps=2", typed))
    assert (leader.status, follower.status) == (2, 2)
    assert leader.stderr.count(message) == 1, leader.stderr
    assert follower.stderr == ""
    assert not list(work.glob("*/*"))


def test_what_is_wrong_with_a_follower_alone_is_told_by_the_leader(ranks: Ranks) -> None:
    broken = """
import gantrain.assemble
from gantrain.errors import DataError
def refuse(config):
    raise DataError("its disk is not mounted")
gantrain.assemble.build_dataset = refuse
"""
    leader, follower = wait(ranks(*IMAGES, "steps=2", before={1: broken}))
    assert (leader.status, follower.status) == (2, 2)
    assert "process 1 of 2: its disk is not mounted" in leader.stderr
    assert follower.stderr == ""


CHECK = """
import torch, torch.distributed as dist
from torch import nn
from gantrain.engine.distributed import SINGLE, average_gradients
from gantrain.engine.batch_norm import normalize_whole_batches
dist.init_process_group("gloo")
rank, size, n = dist.get_rank(), dist.get_world_size(), 6
for kind, shape in ((nn.BatchNorm1d, (n, 3)), (nn.BatchNorm2d, (n, 3, 4, 5))):
    for momentum in (0.1, None):
        torch.manual_seed(0)
        x, weights = torch.randn(shape).double() * 3 + 100, torch.randn(shape).double()
        def model():
            torch.manual_seed(1)
            layers = nn.Sequential(kind(3, momentum=momentum), nn.Tanh(), kind(3, momentum=momentum)).double()
            nn.init.normal_(layers[0].weight); nn.init.normal_(layers[2].bias)
            return layers
        def loss(layers, x, weights):
            # A penalty on the gradient in x, so that the loss is differentiated twice.
            x = x.clone().requires_grad_()
            scores = (layers(x) * weights).flatten(1).sum(1)
            (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
            return (scores + slope.flatten(1).norm(dim=1)).mean()
        whole, shared = model(), model()
        normalize_whole_batches(shared)
        assert type(shared[0]).__name__.startswith("Whole"), type(shared[0])
        rows = slice(rank * n // size, (rank + 1) * n // size)
        expected = loss(whole, x, weights); expected.backward()
        own = loss(shared, x[rows], weights[rows]); own.backward()
        average_gradients(torch.optim.SGD(shared.parameters(), lr=1.0), size)
        mean = own.detach().clone(); dist.all_reduce(mean)
        torch.testing.assert_close(mean / size, expected.detach(), atol=0, rtol=1e-9)
        for p, q in zip(shared.parameters(), whole.parameters()):
            torch.testing.assert_close(p.grad, q.grad, atol=1e-9, rtol=1e-9)
        for p, q in zip(shared.buffers(), whole.buffers()):
            torch.testing.assert_close(p, q, atol=0, rtol=1e-9)
        torch.testing.assert_close(shared.eval()(x), whole.eval()(x), atol=1e-9, rtol=1e-9)
dist.destroy_process_group()
raise SystemExit(77)
"""


def test_batch_normalization_sees_the_whole_batch(ranks: Ranks) -> None:
    """Loss, first and second derivatives and running statistics in float64, against torch's own on the whole batch."""
    results = wait(ranks("--version", before=dict.fromkeys(range(3), CHECK), num=3))
    assert [result.status for result in results] == [77] * 3, results


PHASES = {
    "before anything": "gantrain.tasks.train:one_budget",
    "the data": "gantrain.assemble:build_dataset",
    "the first noise": "gantrain.train:seed_everything",
}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", PHASES)
def test_a_process_that_ends_before_the_first_step_ends_all_without_a_traceback(
    ranks: Ranks, work: Path, phase: str, victim: int, signum: signal.Signals
) -> None:
    end = during(PHASES[phase], f"os.kill(os.getpid(), {int(signum)}); time.sleep(0.1)")
    results = wait(ranks(*IMAGES, "steps=2", "run_dir=run", before={victim: end}))
    agree = signum == signal.SIGTERM and phase == "the first noise"  # they are training
    statuses = {victim: -9 if signum == signal.SIGKILL else 143, 1 - victim: 143 if agree else 1}
    assert [result.status for result in results] == [statuses[0], statuses[1]], results
    assert "Traceback" not in results[0].stderr + results[1].stderr
    assert not victim or results[1].stderr == ""
    if not agree:
        assert "Another process of this run has died" in results[1 - victim].stderr


def test_a_folder_in_use_is_told_once(ranks: Ranks, work: Path) -> None:
    (work / "run/.hydra").mkdir(parents=True)
    with FileLock(work / "run/.hydra/lock"):
        leader, follower = wait(ranks(*IMAGES, "steps=2", "run_dir=run"))
    assert (leader.status, follower.status, follower.stderr) == (2, 2, "")
    assert "run is in use: another process is training there" in leader.stderr


def test_a_fault_in_a_follower_is_named(ranks: Ranks) -> None:
    broken = during("gantrain.assemble:build_dataset", "raise KeyError('x')")
    leader, follower = wait(ranks(*IMAGES, "steps=2", before={1: broken}))
    assert leader.status == 1
    assert "process 1 of 2: KeyError: 'x'" in leader.stderr
    assert "KeyError" in follower.stderr


def test_what_would_depend_on_the_number_of_processes_is_refused_or_told(ranks: Ranks, work: Path) -> None:
    (work / "lazy.py").write_text(LAZY)
    leader, follower = wait(ranks(*CASES["lazy penalty"], "steps=1"))
    assert (leader.status, follower.stderr) == (0, "")
    assert "LazyR1 is your own code: what it draws at random for each sample" in leader.stderr
    with pytest.raises(ConfigError, match="BatchNorm3d in the Sequential would normalize the rows of each process"):
        normalize_whole_batches(torch.nn.Sequential(torch.nn.BatchNorm3d(2)))


ENTRY = """
import os, sys
from gantrain.__main__ import main
{changes}
sys.argv[0] = "gantrain"
main()
"""


@pytest.mark.parametrize("told", ["a follower", "the main process", "torchrun"])
def test_a_signal_under_torchrun_waits_for_a_slow_save(tmp_path: Path, told: str) -> None:
    """torchrun ends all processes when one has left; the last to leave has to be the one that saves."""
    rank = {"a follower": "1", "the main process": "0", "torchrun": "none"}[told]
    changes = f"if os.environ['RANK'] == {rank!r}:"
    changes += during(EACH_STEP, "os.kill(os.getpid(), signal.SIGTERM)", call=4).replace("\n", "\n    ")
    changes += "\nif os.environ['RANK'] == '0':"
    changes += during("gantrain.callbacks.base:Callbacks.finish", "time.sleep(5)").replace("\n", "\n    ")
    changes += f"\nif {rank!r} == 'none' and os.environ['RANK'] == '0':"
    changes += during(EACH_STEP, "os.kill(os.getppid(), signal.SIGTERM)", call=4).replace("\n", "\n    ")
    (tmp_path / "entry.py").write_text(ENTRY.format(changes=changes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "entry.py"]
    command += ["model=dcgan", *IMAGES, *OFTEN, "steps=500", "run_dir=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode, done.stderr
    assert "Stopped by SIGTERM after step" in done.stderr, done.stderr
    saved = record(tmp_path / "run")
    assert saved["status"] == "stopped"
    assert (tmp_path / f"run/checkpoints/step_{saved['steps']:08d}.pt").exists()


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_process_that_dies_under_torchrun_is_told_of_once(tmp_path: Path, victim: int) -> None:
    changes = f"if os.environ['RANK'] == '{victim}':"
    changes += during(EACH_STEP, "os.kill(os.getpid(), signal.SIGKILL)", call=100).replace("\n", "\n    ")
    (tmp_path / "entry.py").write_text(ENTRY.format(changes=changes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "entry.py"]
    command += ["model=dcgan", *IMAGES, *OFTEN, "batch_size=12", "checkpoint.every=3", "steps=500", "run_dir=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode, done.stderr
    assert done.stderr.count("gantrain: Another process of this run has died, at step") == 1, done.stderr
    assert done.stderr.count("Resume with: gantrain resume=run") == 1, done.stderr
    assert "terminate called" not in done.stderr


def test_an_only_process_of_torchrun_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no group to count in."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert SINGLE.claims_report()


@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_starts_again_what_has_died(tmp_path: Path, victim: int) -> None:
    changes = f"if (os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT']) == ('{victim}', '0'):"
    changes += during(EACH_STEP, "os.kill(os.getpid(), signal.SIGKILL)", call=40).replace("\n", "\n    ")
    (tmp_path / "entry.py").write_text(ENTRY.format(changes=changes))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["entry.py", "model=dcgan", *IMAGES, *OFTEN, "checkpoint.every=3", "steps=60", "run_dir=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "(resuming at step " in done.stderr
    assert record(tmp_path / "run")["status"] == "finished"
    assert [int(row["step"]) for row in rows(tmp_path / "run")] == list(range(1, 61))


def test_what_ends_the_main_process_under_torchrun_is_told_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gantrain"]
    command += ["model=dcgan", *IMAGES, "batch_size=16", "steps=300", "optimizer.lr=1e30", "log_every=1", "run_dir=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode, done.stderr
    assert done.stderr.count("gantrain: ") == 1, done.stderr
    assert "the training has diverged" in done.stderr
    assert record(tmp_path / "run")["status"] == "diverged"


def test_torchrun_starts_and_ends_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gantrain"]
    command += ["model=wgan_gp", "n_critic=2", *IMAGES, *OFTEN, "steps=4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Done: 4 steps.") == 1
    (run,) = tmp_path.glob("outputs/*/*")
    assert record(run)["processes"] == 2
