"""Several processes train as one. Most tests fork them with the environment variables that torchrun sets."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adaptive
import pytest
import torch
from filelock import FileLock
from processes import ESTIMATE, OUTPUTS, Process, Result, gantrain, on_call, server, start, work
from runs import assert_parts_acted, csv_rows, run_json

from gantrain.engine.batch_norm import synchronize_batch_norm
from gantrain.engine.distributed import SINGLE_PROCESS
from gantrain.errors import ConfigError

__all__ = ["gantrain", "server", "start", "work"]

IMAGES = ("model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "metric=[]")
NUMBERS = ("dataset=gaussian", "network=mlp", "model.generator.width=8", "model.discriminator.width=8", "batch_size=8")
OFTEN = ("log_every=1", "sample_every=6", "checkpoint.every=6", "evaluate_every=6", "callback.samples.num=4")

OWN_REGULARIZER = '''
import torch
from gantrain.regularizers.base import Regularizer

class LazyR1(Regularizer):
    """R1 that counts its updates (Karras 2020, StyleGAN2, appendix B)."""

    def __init__(self, *, weight: float, every: int):
        self.weight, self.every, self.updates = weight, every, torch.zeros(())

    def discriminator_penalty(self, critic, batch):
        self.updates += 1
        real = batch.real.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(critic(real, batch.labels).sum(), real, create_graph=True)
        return self.weight / 2 * gradient.flatten(1).square().sum(1).mean()

    def state_dict(self):
        return {"updates": self.updates}

    def load_state_dict(self, state):
        self.updates.copy_(state["updates"])
'''
OWN_PARTS = (
    "trust=[lazy,adaptive]",
    "+augment.adaptive._target_=adaptive.Adaptive",
    "+augment.adaptive.decay=0.8",
    "+regularizer.r1._target_=lazy.LazyR1",
    "+regularizer.r1.weight=1.0",
    "+regularizer.r1.every=3",
)


def write_own_parts(folder: Path) -> None:
    """Write the modules of OWN_PARTS."""
    (folder / "lazy.py").write_text(OWN_REGULARIZER)
    shutil.copy(adaptive.__file__, folder)


NOISE = ("regularizer=[input_noise,label_noise]",)

Ranks = Callable[..., list[Process]]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def ranks(start: Callable[..., Process]) -> Ranks:
    """Start the command in `num` processes of one group."""

    def begin(*arguments: str, before: dict[int, str] | None = None, num: int = 2) -> list[Process]:
        common = {
            "WORLD_SIZE": num,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": free_port(),
            "TORCHELASTIC_RUN_ID": "test",
        }

        def environment(rank: int) -> str:
            own = {name: str(value) for name, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            return f"import os; os.environ.update({own!r})\n" + (before or {}).get(rank, "")

        return [start(*arguments, before=environment(rank)) for rank in range(num)]

    return begin


def wait(processes: list[Process]) -> list[Result]:
    return [process.wait() for process in processes]


def saved_tensors(run: Path, step: int) -> Iterator[tuple[str, torch.Tensor]]:
    content = torch.load(run / f"checkpoints/step_{step:08d}.pt", weights_only=True)
    for network in ("G", "D", "G_ema"):
        yield from ((f"{network}.{name}", tensor) for name, tensor in (content[network] or {}).items())
    for group in ("regularizers", "augment"):
        for part, state in content[group].items():
            yield from ((f"{group}.{part}.{name}", torch.as_tensor(value)) for name, value in state.items())
    for player in ("G_optimizer", "D_optimizer"):
        for i, moments in content[player]["state"].items():
            yield from ((f"{player}.{i}.{name}", tensor) for name, tensor in moments.items())


def largest_difference(one: Path, other: Path, step: int) -> float:
    """Return the largest absolute difference between the tensors of two checkpoints: weights and states."""
    pairs = zip(saved_tensors(one, step), saved_tensors(other, step), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for (_, a), (_, b) in pairs)


CASES = {
    "wgan_gp": ("model=wgan_gp", "n_critic=2", *ESTIMATE, *IMAGES, "ema_halflife_images=100"),
    "dcgan": ("model=dcgan", *IMAGES, "metric=[]"),
    "own parts": ("model=dcgan", "model.discriminator.norm=none", *IMAGES, *OWN_PARTS),
    "statistics over the batch": (
        *("model=dcgan", "loss=ralsgan", "regularizer=[lecam,dragan]", "regularizer.dragan.every=2", *IMAGES),
        *("regularizer.lecam.start=2", "model.discriminator.norm=none", "augment=[diffaugment]"),
    ),
    "packing": (
        *("model=dcgan", "packing=2", "accumulate=2", "regularizer=[gradient_penalty]", *IMAGES),
        *("model.discriminator.norm=none", "model.generator.norm=layer"),
    ),
    "lightweight": (
        *(
            "model=lightweight",
            "dataset.image_size=32",
            "latent.z_dim=4",
            "optimizer=sgd",
            "optimizer.lr=1e-3",
            *IMAGES,
        ),
        *(f"model.{network}.num_heads=1" for network in ("generator", "discriminator")),
        *(f"model.{network}.head_dim=4" for network in ("generator", "discriminator")),
        *("regularizer=[r1,reconstruction,bcr]", "regularizer.r1.every=3", "regularizer.r1.gamma=1", "latent.z_dim=4"),
    ),
    "labels and lazy r1": (
        *("network=cdcgan", "loss=relativistic", "regularizer=[r1]", "regularizer.r1.every=3", *IMAGES),
        *("model.discriminator.norm=spectral", "model.generator.norm=layer", "accumulate=2", "schedule=[lr]"),
        *("fake_labels=empirical", "metric=[fid,class_accuracy,density_coverage]", "metric.fid.num_samples=130"),
        *("metric.fid.num_real=300", "metric.class_accuracy.num_samples=200", "metric.class_accuracy.num_real=300"),
        *("metric.density_coverage.num_samples=150", "metric.density_coverage.num_real=280"),
        "statistics_dir=null",
    ),
    # Not Adam, which would make steps of full size from the rounding errors of biases before BatchNorm.
    "residual networks with labels": (
        *("model=sagan", "optimizer=sgd", "optimizer.lr=1e-3", "generator_batch_multiple=2", *IMAGES),
        *("model.generator.width=1", "model.discriminator.width=1"),
        *("regularizer=[dequantization]", "fake_labels=uniform"),
    ),
    "sngan": ("model=sngan", *IMAGES, "n_critic=2", "optimizer=sgd", "optimizer.lr=1e-3"),
    "wgan_gp_resnet": ("model=wgan_gp_resnet", *IMAGES, "n_critic=2", "optimizer=sgd", "optimizer.lr=1e-4"),
    "biggan": (
        *("model=biggan", *IMAGES, "n_critic=2", "model.generator.shared_dim=4", "optimizer=sgd"),
        *("optimizer.lr=1e-4", "fake_labels=uniform", "model.generator.width=1", "model.discriminator.width=1"),
    ),
    "digits": ("experiment=digits", *IMAGES, "optimizer=sgd", "optimizer.lr=1e-3"),
    "r3gan and ada": (
        *("model=r3gan", "network=r3gan_cond", *IMAGES, "model.discriminator.num_blocks=1", "accumulate=2"),
        *("augment=[ada_r3gan]", "augment.ada.strength=0.3", "schedule=[r3gan]"),
    ),
    "stylegan2": (
        *("model=stylegan2_ada", "network=stylegan2_cond", *IMAGES, "latent.z_dim=8", "model.generator.w_dim=8"),
        *("model.discriminator.num_mapping_layers=1", "augment.ada.strength=0.3", "augment.ada.interval=5"),
        *("regularizer.r1.every=3", "regularizer.path_length.every=2", "augment.ada.images_to_one=1000"),
        *("fake_labels=empirical", "optimizer=sgd", "optimizer.lr=1e-3"),
    ),
    "dropout and noise": ("model=vanilla", *NUMBERS, *NOISE, "metric=[moments]", "model.discriminator.dropout=0.3"),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_match_one_process(gantrain: Any, ranks: Ranks, work: Path, case: str) -> None:
    write_own_parts(work)
    command = (*CASES[case], *OFTEN, "steps=12")
    alone = gantrain(*command, "run_dir=one")
    assert alone.status == 0, alone.stderr
    leader, follower = wait(ranks(*command, "run_dir=two"))
    assert leader.status == 0, leader.stderr
    assert (follower.status, follower.stderr) == (0, "")
    assert largest_difference(work / "one", work / "two", 12) < 1e-5
    assert_parts_acted(work / "two")
    for mine, theirs in zip(csv_rows(work / "two"), csv_rows(work / "one"), strict=True):
        for tag, value in theirs.items():
            if tag not in ("seconds", "throughput/images_per_second") and value:
                assert float(mine[tag]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), tag
    assert run_json(work / "two")["processes"] == 2
    assert run_json(work / "two")["images_seen"] == run_json(work / "one")["images_seen"]
    assert len(list((work / "two/tensorboard").iterdir())) == 1
    assert {path.name for path in work.iterdir() if path.is_dir()} - {"__pycache__"} == {"one", "two"}


def test_resume_with_another_number_of_processes(gantrain: Any, ranks: Ranks, work: Path) -> None:
    command = ("model=wgan_gp", "n_critic=2", *ESTIMATE, *IMAGES, *OFTEN, "batch_size=12")
    assert gantrain(*command, "steps=10", "run_dir=straight").status == 0
    assert [r.status for r in wait(ranks(*command, "steps=4", "run_dir=parts"))] == [0, 0]
    assert gantrain("resume=parts", "steps=7").status == 0
    last = wait(ranks("resume=parts", "steps=10", num=3))
    assert [r.status for r in last] == [0] * 3, last[0].stderr
    assert largest_difference(work / "straight", work / "parts", 10) < 1e-5
    assert [int(row["step"]) for row in csv_rows(work / "parts")] == list(range(1, 11))
    again = wait(ranks("resume=parts", "steps=10"))
    assert [r.status for r in again] == [0, 0]
    assert "is finished (10 steps)" in again[0].stderr


EACH_STEP = "gantrain.tasks.train:StopOnSignal.__call__"


@pytest.mark.parametrize("victim", [0, 1])
def test_death_of_one_process_ends_all_and_the_run_resumes(
    gantrain: Any, ranks: Ranks, work: Path, victim: int
) -> None:
    command = ("model=wgan_gp", "n_critic=1", *ESTIMATE, *IMAGES, *OUTPUTS, "steps=12", "run_dir=run")
    die = on_call(EACH_STEP, "os.kill(os.getpid(), signal.SIGKILL)", call=8)
    results = wait(ranks(*command, before={victim: die}))
    assert results[victim].status == -signal.SIGKILL
    assert results[1 - victim].status == 1, results[1 - victim].stderr
    survivor = results[1 - victim].stderr
    assert "gantrain: Another process of this run has died, at step" in survivor
    # If rank 0 survives, it waits until its checkpoint is written.
    is_saved = bool(victim or list((work / "run/checkpoints").glob("step_*.pt")))
    assert ("Resume with: gantrain resume=run" in survivor) is is_saved
    assert "Traceback" not in survivor
    assert run_json(work / "run")["status"] == ("failed" if victim else "running")
    assert not victim or results[victim].stderr == ""
    done = gantrain(*command)
    assert done.status == 0, done.stderr
    assert run_json(work / "run")["status"] == "finished"
    assert [int(row["step"]) for row in csv_rows(work / "run")] == [1, *range(2, 13, 2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_signal_to_one_process_stops_all_after_the_same_step(ranks: Ranks, work: Path, rank: int) -> None:
    command = ("model=dcgan", *IMAGES, *OUTPUTS, "steps=500", "run_dir=run")
    stop = on_call(EACH_STEP, "os.kill(os.getpid(), signal.SIGTERM)", call=7)
    leader, follower = wait(ranks(*command, before={rank: stop}))
    assert (leader.status, follower.status) == (143, 143), leader.stderr
    assert "Stopped by SIGTERM after step" in leader.stderr
    assert follower.stderr == ""
    saved = run_json(work / "run")
    assert saved["status"] == "stopped"
    assert (work / f"run/checkpoints/step_{saved['steps']:08d}.pt").exists()
    finished = wait(ranks("resume=run", f"steps={saved['steps'] + 3}"))
    assert [r.status for r in finished] == [0, 0], finished[0].stderr


@pytest.mark.parametrize("signalled", [False, True])
def test_verdict_stops_all_processes_after_the_same_step(ranks: Ranks, work: Path, signalled: bool) -> None:
    """Also if one of them gets a signal in the same step."""
    command = ("model=dcgan", *IMAGES, *OUTPUTS, "steps=500", "run_dir=run", "dataset.holdout=0.01")
    command += ("optimizer.lr=1e-9", "callback.verdicts.every=3", "verdict.stop=[generator_stalls]")
    stop = on_call(EACH_STEP, "os.kill(os.getpid(), signal.SIGTERM)", call=9)
    leader, follower = wait(ranks(*command, before={1: stop} if signalled else {}))
    assert (leader.status, follower.status) == (4, 4), leader.stderr
    assert leader.stderr.count("stopped after step 9 by the verdict generator_stalls") == 1
    assert follower.stderr == ""
    saved = run_json(work / "run")
    assert (saved["status"], saved["steps"]) == ("stopped", 9)
    assert (work / "run/checkpoints/step_00000009.pt").exists()
    if not signalled:
        resumed = wait(ranks("resume=run", "steps=12"))
        assert [result.status for result in resumed] == [0, 0], resumed[0].stderr
        assert run_json(work / "run")["verdicts"] == saved["verdicts"]


def test_divergence_rolls_back_all_processes(ranks: Ranks, work: Path) -> None:
    command = ("model=dcgan", *IMAGES, *OUTPUTS, "steps=12", "log_every=1", "run_dir=run", "on_divergence=rollback")
    spoil = on_call("gantrain.losses.nonsaturating:NonSaturating.generator", "args[1].mul_(float('nan'))", call=8)
    leader, follower = wait(ranks(*command, before={0: spoil}))
    assert (leader.status, follower.status) == (0, 0), leader.stderr
    assert "Rolled back to step 6, with different random numbers (1 of at most 3 times)" in leader.stderr
    assert follower.stderr == ""
    assert run_json(work / "run")["status"] == "finished"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "batch_size=7",
            "batch_size=7: must be a multiple of processes (2); for example batch_size=8.",
        ),
        ("optimizer.lr=-1", "optimizer.lr=-1: a learning rate is a number above 0"),
        ("stepz=3", "stepz"),
        (
            "-m",
            "-m: each run of a sweep is a single process, but torchrun started 2; run gantrain -m without",
        ),
        ("task=sample", "task=sample runs in one process, but torchrun started 2; run gantrain without torchrun"),
        ("task=evaluate", "task=evaluate runs in one process, but torchrun started 2; run gantrain without torchrun"),
        ("task=benchmark", "task=benchmark runs in one process, but torchrun started 2; run gantrain without torchrun"),
        ("init_from=nowhere", "nowhere has no checkpoint"),
    ],
)
def test_config_error_is_printed_once(ranks: Ranks, work: Path, typed: str, message: str) -> None:
    leader, follower = wait(ranks(*IMAGES, "steps=2", typed))
    assert (leader.status, follower.status) == (2, 2)
    assert leader.stderr.count(message) == 1, leader.stderr
    assert follower.stderr == ""
    assert not list(work.glob("*/*"))


def test_data_error_on_rank_1_is_reported_by_rank_0(ranks: Ranks) -> None:
    broken = """
import gantrain.assemble
from gantrain.errors import DataError
def refuse(config):
    raise DataError("the disk is not mounted")
gantrain.assemble.build_dataset = refuse
"""
    leader, follower = wait(ranks(*IMAGES, "steps=2", before={1: broken}))
    assert (leader.status, follower.status) == (2, 2)
    assert "process 1 of 2: the disk is not mounted" in leader.stderr
    assert follower.stderr == ""


CHECK = """
import torch, torch.distributed as dist
from torch import nn
from gantrain.engine.distributed import SINGLE_PROCESS, average_gradients
from gantrain.engine.batch_norm import synchronize_batch_norm
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
            # A penalty on the gradient with respect to x differentiates the loss twice.
            x = x.clone().requires_grad_()
            scores = (layers(x) * weights).flatten(1).sum(1)
            (slope,) = torch.autograd.grad(scores.sum(), x, create_graph=True)
            return (scores + slope.flatten(1).norm(dim=1)).mean()
        whole, shared = model(), model()
        synchronize_batch_norm(shared)
        assert type(shared[0]).__name__.startswith("Synchronized"), type(shared[0])
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


def test_batch_norm_normalizes_over_all_processes(ranks: Ranks) -> None:
    """Loss, first and second derivatives and running statistics in float64 equal torch's on the whole batch."""
    results = wait(ranks("--version", before=dict.fromkeys(range(3), CHECK), num=3))
    assert [result.status for result in results] == [77] * 3, results


PHASES_BEFORE_STEP_1 = {
    "start-up": "gantrain.tasks.train:choose_budget",
    "dataset": "gantrain.assemble:build_dataset",
    "first step": "gantrain.train:seed_everything",
}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("phase", PHASES_BEFORE_STEP_1)
def test_process_that_ends_before_step_1_ends_all_without_traceback(
    ranks: Ranks, work: Path, phase: str, victim: int, signum: signal.Signals
) -> None:
    end = on_call(PHASES_BEFORE_STEP_1[phase], f"os.kill(os.getpid(), {int(signum)}); time.sleep(0.1)")
    results = wait(ranks(*IMAGES, "steps=2", "run_dir=run", before={victim: end}))
    stopped = signum == signal.SIGTERM and phase == "first step"  # all ranks stop after the same step
    statuses = {victim: -9 if signum == signal.SIGKILL else 143, 1 - victim: 143 if stopped else 1}
    assert [result.status for result in results] == [statuses[0], statuses[1]], results
    assert "Traceback" not in results[0].stderr + results[1].stderr
    assert not victim or results[1].stderr == ""
    if not stopped:
        assert "Another process of this run has died" in results[1 - victim].stderr


def test_locked_run_folder_is_reported_once(ranks: Ranks, work: Path) -> None:
    (work / "run/.hydra").mkdir(parents=True)
    with FileLock(work / "run/.hydra/lock"):
        leader, follower = wait(ranks(*IMAGES, "steps=2", "run_dir=run"))
    assert (leader.status, follower.status, follower.stderr) == (2, 2, "")
    assert "run is in use: another process is training there" in leader.stderr


def test_exception_on_rank_1_is_named_by_rank_0(ranks: Ranks) -> None:
    broken = on_call("gantrain.assemble:build_dataset", "raise KeyError('x')")
    leader, follower = wait(ranks(*IMAGES, "steps=2", before={1: broken}))
    assert leader.status == 1
    assert "process 1 of 2: KeyError: 'x'" in leader.stderr
    assert "KeyError" in follower.stderr


def test_dependence_on_the_number_of_processes_is_refused_or_warned_about(ranks: Ranks, work: Path) -> None:
    write_own_parts(work)
    leader, follower = wait(ranks(*CASES["own parts"], "steps=1"))
    assert (leader.status, follower.stderr) == (0, "")
    assert "LazyR1 is your own code: it must draw the random numbers of each sample" in leader.stderr
    with pytest.raises(ConfigError, match="BatchNorm3d in the Sequential would normalize the rows of each process"):
        synchronize_batch_norm(torch.nn.Sequential(torch.nn.BatchNorm3d(2)))


@pytest.fixture
def torchrun(start: Callable[..., Process]) -> Callable[..., Result]:
    """Run torchrun in a forked process. It is the real one, except that its processes are forked instead of started."""

    def run(num: int, *arguments: str) -> Result:
        words = ["--standalone", f"--nproc-per-node={num}", *arguments]
        run_agent = "import os; os.environ['AGENT'] = str(os.getpid())\nfrom torch.distributed.run import main\n"
        return start(before=f"{run_agent}main({words!r}); raise SystemExit", forks=True).wait()

    return run


ENTRY = """
import os, sys
from gantrain.__main__ import main
{changes}
sys.argv[0] = "gantrain"
main()
"""


@pytest.mark.parametrize("receiver", ["rank 1", "torchrun"])
@pytest.mark.parametrize(("steps", "status"), [(500, "stopped"), (4, "finished")])
def test_torchrun_waits_for_a_slow_checkpoint_after_a_signal(
    torchrun: Callable[..., Result], work: Path, receiver: str, steps: int, status: str
) -> None:
    """torchrun ends all processes when one exits, so that the process that saves must exit last."""
    rank = {"rank 1": "1", "torchrun": "none"}[receiver]
    changes = f"if os.environ['RANK'] == {rank!r}:"
    changes += on_call(EACH_STEP, "os.kill(os.getpid(), signal.SIGTERM)", call=4).replace("\n", "\n    ")
    changes += "\nif os.environ['RANK'] == '0':"
    changes += on_call("gantrain.callbacks.base:Callbacks.finish", "time.sleep(1)").replace("\n", "\n    ")
    changes += f"\nif {rank!r} == 'none' and os.environ['RANK'] == '0':"
    changes += on_call(EACH_STEP, "os.kill(int(os.environ['AGENT']), signal.SIGTERM)", call=4).replace("\n", "\n    ")
    (work / "entry.py").write_text(ENTRY.format(changes=changes))
    done = torchrun(2, "entry.py", "model=dcgan", *IMAGES, *OFTEN, f"steps={steps}")
    assert done.status, done.stderr
    how = (
        "Stopped by SIGTERM after step"
        if status == "stopped"
        else "Finished at step 4; SIGTERM was received meanwhile."
    )
    assert how in done.stderr, done.stderr
    (run,) = work.glob("outputs/*/*")  # all processes agree on the name
    saved = run_json(run)
    assert (saved["status"], saved["processes"]) == (status, 2)
    assert (run / f"checkpoints/step_{saved['steps']:08d}.pt").exists()


@pytest.mark.parametrize("victim", [1])
def test_death_under_torchrun_is_reported_once(torchrun: Callable[..., Result], work: Path, victim: int) -> None:
    changes = f"if os.environ['RANK'] == '{victim}':"
    changes += on_call(EACH_STEP, "os.kill(os.getpid(), signal.SIGKILL)", call=14).replace("\n", "\n    ")
    (work / "entry.py").write_text(ENTRY.format(changes=changes))
    command = ("model=dcgan", *IMAGES, *OFTEN, "batch_size=12", "checkpoint.every=3", "steps=500", "run_dir=run")
    done = torchrun(3, "entry.py", *command)
    assert done.status, done.stderr
    assert done.stderr.count("gantrain: Another process of this run has died, at step") == 1, done.stderr
    assert done.stderr.count("Resume with: gantrain resume=run") == 1, done.stderr
    assert "terminate called" not in done.stderr


def test_single_process_claims_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single process under torchrun has no process group."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert SINGLE_PROCESS.claims_report()


def test_torchrun_restart_resumes_the_run(torchrun: Callable[..., Result], work: Path) -> None:
    changes = "if (os.environ['RANK'], os.environ['TORCHELASTIC_RESTART_COUNT']) == ('0', '0'):"
    changes += on_call(EACH_STEP, "os.kill(os.getpid(), signal.SIGKILL)", call=14).replace("\n", "\n    ")
    (work / "entry.py").write_text(ENTRY.format(changes=changes))
    command = ("model=dcgan", *IMAGES, *OFTEN, "checkpoint.every=3", "steps=20", "run_dir=run")
    done = torchrun(2, "--max-restarts=1", "entry.py", *command)
    assert done.status == 0, done.stderr
    assert "(resuming at step " in done.stderr
    assert done.stderr.count("Done: 20 steps.") == 1
    assert run_json(work / "run")["status"] == "finished"
    assert [int(row["step"]) for row in csv_rows(work / "run")] == list(range(1, 21))


def test_divergence_under_torchrun_is_the_only_message(tmp_path: Path) -> None:
    """This is also the one test that starts torchrun and its processes as a user does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gantrain"]
    command += ["model=dcgan", *IMAGES, "batch_size=16", "steps=300", "optimizer.lr=1e30", "log_every=1", "run_dir=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode, done.stderr
    assert done.stderr.count("gantrain: ") == 1, done.stderr
    assert "the training has diverged" in done.stderr
    assert run_json(tmp_path / "run")["status"] == "diverged"
