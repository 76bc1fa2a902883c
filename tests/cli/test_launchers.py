"""Parallel sweeps: on the devices of one machine, and as the jobs of a cluster."""

import inspect
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.utils import JobStatus
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from processes import Process, Server, server
from runs import differences, run_json

from gantrain.command.cli import Task
from gantrain.command.folders import claim_folder, register
from gantrain.config import CONF
from gantrain.errors import ConfigError
from hydra_plugins.gantrain_devices import Children, DevicesLauncher

__all__ = ["server"]

SLURM = Path(__file__).parents[1] / "slurm"
SMALL = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=2"),
    "batch_size=4",
    "metric=[]",
    "checkpoint.every=50",
)
TWO = ("hydra/launcher=devices", "hydra.launcher.runs_per_device=2")


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start the command in a forked process; `forks=False` starts its runs without the server of tests/forks.py."""

    def begin(*arguments: str, forks: bool = True, **environment: str) -> Process:
        before = f"import os; os.environ.update({environment!r})"
        return server.start(tmp_path, arguments, before=before, forks=forks)

    yield begin
    for pid in list(server.alive):
        os.kill(pid, signal.SIGKILL)
        server.wait(pid, 10)


def test_sweep_runs_are_concurrent_and_a_refused_one_stops_no_other(start: Any, tmp_path: Path) -> None:
    """And a run of the sweep equals the same single run."""
    typed = (*TWO, "optimizer.lr=1e-3,2e-3,-1", *SMALL, "steps=150", "run_dir=sweep")
    swept = start("-m", *typed).wait()
    assert swept.status == 2
    assert swept.stderr.count("Run ") == 3
    assert "[2] gantrain: optimizer.lr=-1: a learning rate is a number above 0" in swept.stderr
    refused = re.escape(f"run 2 (optimizer.lr=-1 {' '.join(SMALL)} steps=150 run_dir=sweep) ended with status 2")
    assert len(re.findall(f"^gantrain: {refused}", swept.stderr, re.M)) == 1
    assert re.search(r"^\[1\] step 150/150  loss D", swept.stderr, re.M)
    assert "Traceback" not in swept.stderr
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == {"0", "1"}
    records = [run_json(tmp_path / "sweep" / name) for name in "01"]
    assert [r["status"] for r in records] == ["finished"] * 2
    (_, ended), (started, _) = ([datetime.fromisoformat(r[key]) for key in ("started", "ended")] for r in records)
    assert started <= ended, "the runs were not concurrent"
    assert start("optimizer.lr=2e-3", *SMALL, "steps=150", "run_dir=alone").wait().status == 0
    assert not differences(tmp_path / "sweep/1", tmp_path / "alone")


def test_signal_saves_all_runs_and_the_same_command_resumes_them(start: Any, tmp_path: Path) -> None:
    typed = ("-m", *TWO, "seed=0,1,2", *SMALL, "run_dir=sweep", "on_divergence=stop")
    command = start(*typed, "steps=100000")
    command.until(lambda: all((tmp_path / f"sweep/{i}/metrics.csv").exists() for i in (0, 1)))
    command.send(signal.SIGTERM)
    swept = command.wait()
    assert swept.status == 143, swept.stderr
    told = "Stopped by SIGTERM; 2 of 3 runs had started. Resume them with the same command and run_dir=sweep"
    assert told in swept.stderr
    done = [run_json(tmp_path / f"sweep/{i}") for i in (0, 1)]
    for number, r in enumerate(done):
        assert r["status"] == "stopped"
        assert (tmp_path / f"sweep/{number}/checkpoints/step_{r['steps']:08d}.pt").exists()
    assert not (tmp_path / "sweep/2").exists()
    steps = max(r["steps"] for r in done) + 5
    swept = start(*typed, f"steps={steps}").wait()
    assert swept.status == 0, swept.stderr
    records = [run_json(tmp_path / f"sweep/{i}") for i in range(3)]
    assert [r["steps"] for r in records] == [steps] * 3
    assert [len(r["history"]) for r in records] == [1, 1, 0]


def test_killed_run_is_named(start: Any, tmp_path: Path) -> None:
    """This sweep starts its run as a user's does; the runs of the others are forked, to save the import of torch."""
    typed = ("-m", "hydra/launcher=devices", "seed=0", *SMALL, "steps=100000", "run_dir=sweep")
    command = start(*typed, forks=False)
    command.until(lambda: (tmp_path / "sweep/0/metrics.csv").exists())
    threads = Path(f"/proc/{command.pid}/task").glob("*/children")
    (child,) = (pid for thread in threads for pid in thread.read_text().split())
    os.kill(int(child), signal.SIGKILL)
    swept = command.wait()
    assert swept.status == 1
    assert "was killed by SIGKILL" in swept.stderr
    assert re.search(r"^\[0\] folder +sweep/0$", swept.stderr, re.M)


def make_launcher(devices: Any = "auto", runs_per_device: int = 1, device: str = "auto") -> DevicesLauncher:
    made = DevicesLauncher(devices=devices, runs_per_device=runs_per_device)
    config = {"runtime": {"device": device}, "hydra": {"overrides": {"hydra": []}, "sweep": {"dir": "sweep"}}}
    made.setup(
        hydra_context=None,  # type: ignore[arg-type]
        task_function=Task(["-m"], ["-m", "--config-dir", "my"], wants_traceback=False),
        config=OmegaConf.create(config),
    )
    return made


@pytest.mark.parametrize(
    ("options", "visible", "expected"),
    [
        ({}, None, ["0", "1", "2", "3"]),
        ({"runs_per_device": 2}, None, ["0", "1", "2", "3"] * 2),
        ({"devices": [1, 3]}, None, ["1", "3"]),
        ({"devices": 2}, None, ["2"]),
        ({}, "4,5,6,7", ["4", "5", "6", "7"]),
        ({"devices": [5]}, "4,5,6,7", ["5"]),
    ],
)
def test_each_gpu_has_a_slot(
    monkeypatch: pytest.MonkeyPatch, options: Any, visible: str | None, expected: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_launcher(**options).slots()] == expected


def test_without_gpus_the_cpu_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {*range(8)}, raising=False)
    assert [dict(slot.environment) for slot in make_launcher().slots()] == [{}]
    assert [dict(slot.environment) for slot in make_launcher(runs_per_device=3).slots()] == [
        {"OMP_NUM_THREADS": "2"}
    ] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [slot.name for slot in make_launcher(device="cpu").slots()] == ["the CPU"]
    assert [slot.name for slot in make_launcher(devices="cpu").slots()] == ["the CPU"]


@pytest.mark.parametrize("devices", [[0, 9], [], "none", [0.5]])
def test_missing_devices_are_refused(monkeypatch: pytest.MonkeyPatch, devices: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(
        ConfigError, match=r"hydra.launcher.devices=.*must be auto, cpu or a list of the GPUs .*\(0, 1\)"
    ):
        make_launcher(devices).slots()


def test_each_slot_runs_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The runs are small programs that record their device, start and end."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program = (
        "import os, sys, time; start = time.monotonic(); time.sleep(0.3);"
        f"open({str(tmp_path)!r} + '/' + sys.argv[1], 'w').write(str([os.environ['CUDA_VISIBLE_DEVICES'], start, "
        "time.monotonic()]))"
    )
    made = make_launcher()
    monkeypatch.setattr(made, "command", lambda overrides, folder: [sys.executable, "-c", program, folder.name])
    returned = made.launch([[f"seed={i}"] for i in range(6)], 0)
    assert [r.status for r in returned] == [JobStatus.COMPLETED] * 6
    spans = [json.loads((tmp_path / str(i)).read_text().replace("'", '"')) for i in range(6)]
    assert {device for device, *_ in spans} == {"0", "1"}
    for i, (device, start, end) in enumerate(spans):
        at_once = [d for j, (d, s, e) in enumerate(spans) if j != i and s < end and start < e]
        assert device not in at_once
    assert any(s < spans[0][2] for _, s, _ in spans[1:])


def test_launcher_config_lists_every_option() -> None:
    node = OmegaConf.load(CONF / "hydra/launcher/devices.yaml")
    assert isinstance(node, DictConfig)
    options = {name: p.default for name, p in inspect.signature(DevicesLauncher).parameters.items()}
    assert options == {str(name): inspect.Parameter.empty for name in node if name != "_target_"}
    assert get_object(node["_target_"]).__qualname__ == "DevicesLauncher"


def test_command_of_a_sweep_run_is_a_valid_command_line() -> None:
    made = make_launcher()
    made.config.hydra.overrides.hydra = ["hydra.mode=MULTIRUN", "hydra/launcher=devices", "hydra.launcher.devices=[0]"]
    words = made.command(["seed=1", "run_dir=sweep", "loss=lsgan"], Path("my sweep/3"))
    assert words[3:] == ["--config-dir", "my", "seed=1", "loss=lsgan", "run_dir='my sweep/3'"]


def test_second_signal_is_forwarded_to_the_runs() -> None:
    ignores_signals = "import signal, time\nfor s in (15, 2): signal.signal(s, lambda *_: print('no', flush=True))\n"
    ignores_signals += "signal.signal(1, lambda *_: exit(7))\nprint('ready', flush=True)\nwhile True: time.sleep(0.01)"
    with Children(wants_traceback=False) as children:
        import threading

        def signals() -> None:
            while not children.processes:
                time.sleep(0.01)
            time.sleep(0.5)
            for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(os.getpid(), s)
                time.sleep(0.1)

        sender = threading.Thread(target=signals)
        sender.start()
        assert children.run(0, "title", [sys.executable, "-c", ignores_signals], {}) == 7
        sender.join()
        assert children.received == signal.SIGTERM
        assert children.run(1, "title", [sys.executable, "-c", "1"], {}) is None


# Clusters -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "slurm").mkdir()
    return {"PATH": f"{SLURM}:{os.environ['PATH']}", "FAKE_SLURM": str(tmp_path / "slurm")}


SUBMIT = ("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=1", *SMALL, "run_dir=sweep")


def test_sweep_runs_are_submitted_as_slurm_jobs(start: Any, tmp_path: Path, cluster: dict[str, str]) -> None:
    page = (Path(__file__).parents[2] / "docs/devices.md").read_text()
    (tmp_path / "my/hydra/launcher").mkdir(parents=True)
    (tmp_path / "my/hydra/launcher/cluster.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    typed = ("--config-dir", "my", "-m", "hydra/launcher=cluster", *SMALL, "run_dir=sweep")
    swept = start(*typed, "optimizer.lr=1e-3,-1", "steps=20", **cluster).wait()
    assert swept.status == 2
    assert "gantrain: optimizer.lr=-1: a learning rate is a number above 0" in swept.stderr
    assert "Traceback" not in swept.stderr
    script = (tmp_path / "slurm/1000.sh").read_text()
    assert {"#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", "#SBATCH --time=240", "#SBATCH --array=0-1%2"} <= {
        *script.splitlines()
    }
    assert run_json(tmp_path / "sweep/0")["status"] == "finished"
    (log,) = (tmp_path / "sweep/.submitit").glob("1000_0/*.err")
    assert "step 20/20  loss D" in log.read_text()
    assert not (tmp_path / "outputs").exists()


def test_slurm_job_at_its_time_limit_is_saved_and_requeued(start: Any, tmp_path: Path, cluster: dict[str, str]) -> None:
    command = start(*SUBMIT, "hydra.launcher.max_num_timeout=3", "seed=0", "steps=200", **cluster)
    command.until(lambda: (tmp_path / "sweep/0/metrics.csv").exists())
    job = int((tmp_path / "slurm/1000-0.pid").read_text())
    os.kill(job, signal.SIGUSR2)  # as SLURM does shortly before the time limit of a job
    swept = command.wait()
    assert swept.status == 0, swept.stderr
    finished = run_json(tmp_path / "sweep/0")
    assert (finished["status"], finished["steps"]) == ("finished", 200)
    (resumed,) = finished["history"]
    assert 0 < resumed["step"] < 200
    (log,) = (tmp_path / "sweep/.submitit").glob("1000/*.err")
    assert f"Stopped by SIGUSR2 after step {resumed['step']}" in log.read_text()
    assert start("seed=0", *SMALL, "steps=200", "run_dir=alone").wait().status == 0
    assert not differences(tmp_path / "sweep/0", tmp_path / "alone")


def test_tasks_of_one_slurm_job_train_one_run(start: Any, tmp_path: Path, cluster: dict[str, str]) -> None:
    """These tasks start as on a cluster; those of the other tests are forked."""
    typed = (*SUBMIT, "hydra.launcher.tasks_per_node=2", "seed=0", "steps=20")
    swept = start(*typed, forks=False, **cluster).wait()
    assert swept.status == 0, swept.stderr
    done = run_json(tmp_path / "sweep/0")
    assert (done["status"], done["processes"]) == ("finished", 2)
    leader, follower = sorted((tmp_path / "sweep/.submitit").glob("1000/*.err"))
    assert "2 processes" in leader.read_text()
    assert not follower.read_text().strip()


def test_task_survives_pickling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cloudpickle

    monkeypatch.chdir(tmp_path)
    claim_folder.cache_clear()
    task = Task(["-m"], ["-m"], wants_traceback=True)
    task.fixed_run_dir = True
    register(fixed_run_dir=True, sweep="there")
    copy = cloudpickle.loads(cloudpickle.dumps(task))
    try:
        assert (copy.is_copy, copy.sweep, copy.fixed_run_dir, copy.wants_traceback) == (True, "there", True, True)
        assert cloudpickle.loads(cloudpickle.dumps(copy)).sweep == "there"
    finally:
        register(fixed_run_dir=False)
