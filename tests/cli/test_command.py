"""What the command prints without training, and how fast it starts."""

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import seconds_waiting_for_cpu

from gantrain.config import CONF


def test_help_lists_every_group_and_option_with_a_line_on_each(command) -> None:
    result = command("--help")
    assert result.status == 0
    for option in CONF.glob("*/**/*.yaml"):
        assert re.search(rf"^{option.parent.relative_to(CONF)}$", result.stdout, re.M), option
        assert re.search(rf"^  {option.stem} +\S.+$", result.stdout, re.M), option
    for example in ("gantrain model=wgan_gp dataset=celeba", "gantrain -m ", "task=sample", "--cfg job"):
        assert example in result.stdout
    assert "gantrain --cfg job model=wgan_gp" in result.stdout.splitlines()[-3]
    for key in ("steps", "epochs", "batch_size", "n_critic", "checkpoint.every", "run_dir"):
        assert re.search(rf"^  {key} +\S.+$", result.stdout, re.M), key


def test_help_includes_the_users_own_configs(command, tmp_path) -> None:
    (tmp_path / "my/experiment").mkdir(parents=True)
    (tmp_path / "my/experiment/faces.yaml").write_text("# @package _global_\n# all of my faces\nseed: 3\n")
    assert re.search(r"^  faces +all of my faces$", command("--config-dir", "my", "--help").stdout, re.M)


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_and_version_are_fast_and_do_not_import_torch(flag: str) -> None:
    code = f"""
import sys
sys.argv[1:] = ['{flag}']
from gantrain.command.cli import main
main()
print('torch' in sys.modules)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU time, which does not grow on a busy machine as wall-clock time does.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.5
    assert done.stdout.splitlines()[-1] == "False"


def test_version(command) -> None:
    from importlib.metadata import version

    assert command("--version").stdout == f"gantrain {version('gantrain')}\n"


def test_cfg_job_prints_the_config_and_runs_nothing(command, tmp_path) -> None:
    from omegaconf import OmegaConf

    result = command("--cfg", "job", "model=wgan_gp", "loss=lsgan", "n_critic=3")
    config = OmegaConf.create(result.stdout)
    assert result.status == 0
    assert config.n_critic == 3
    assert config.loss._target_.endswith("LeastSquares")
    assert list(config.regularizer) == ["gradient_penalty"]
    assert config.optimizer.betas == [0.0, 0.9]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "typed",
    [
        "model=wgan --cfg job seed=3",
        "--cfg job model=wgan seed=3",
        "model=wgan seed=3 -c job",
        "model=wgan --config-dir my seed=3 --cfg=job",
    ],
)
def test_flags_and_overrides_come_in_any_order(gantrain, tmp_path, typed: str) -> None:
    from omegaconf import OmegaConf

    (tmp_path / "my").mkdir()
    result = gantrain(*typed.split())
    assert result.status == 0, result.stderr
    config = OmegaConf.create(result.stdout)
    assert (config.seed, config.n_critic) == (3, 5)


def test_multirun_flag_may_stand_between_overrides(gantrain, tmp_path) -> None:
    result = gantrain("model=dcgan", "-m", "seed=0,1", "n_critic=1", "callback=[log]", "steps=1", "batch_size=2")
    assert result.status == 0, result.stderr
    assert len(list((tmp_path / "outputs/multirun").glob("*/*/*/run.json"))) == 2


def test_tab_completion_knows_the_options(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "gantrain", "-sc", "query=bash"],
        env={"COMP_LINE": "gantrain model=wg", "COMP_POINT": "17", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"model=wgan", "model=wgan_gp"} <= set(done.stdout.split())


def test_a_users_own_config_and_module_are_found(gantrain, tmp_path) -> None:
    (tmp_path / "my/loss").mkdir(parents=True)
    (tmp_path / "my/loss/hinge2.yaml").write_text("# hinge\n_target_: my_losses.Hinge\nmargin: 1.0\n")
    (tmp_path / "my_losses.py").write_text(
        "from torch.nn.functional import relu\n"
        "class Hinge:\n"
        "    def __init__(self, *, margin: float):\n"
        "        self.margin = margin\n"
        "    def discriminator(self, real_logits, fake_logits):\n"
        "        return relu(self.margin - real_logits).mean() + relu(self.margin + fake_logits).mean()\n"
        "    def generator(self, fake_logits):\n"
        "        return -fake_logits.mean()\n"
    )
    overrides = ("loss=hinge2", "model=wgan_gp", "steps=2", "batch_size=2", "run_dir=out")
    refused = gantrain("--config-dir", "my", *overrides)
    assert refused.status == 2
    assert "if you know that code, trust it: 'trust=[my_losses]'" in refused.stderr
    result = gantrain("--config-dir", "my", *overrides, "trust=[my_losses]")
    assert result.status == 0, result.stderr
    assert (tmp_path / "out/run.json").is_file()


def test_default_run_reaches_step_1_soon_after_the_imports(tmp_path: Path) -> None:
    """Within 8 seconds where importing torch and its compiler takes 4: torch imports that at the first step.

    Both are measured in turn, without waiting for a core, and the best of three pairs counts.
    """
    imports = "import time, torch, torch._dynamo; print(time.process_time())"

    def seconds(run: str) -> float:
        began = time.monotonic()
        command = [sys.executable, "-m", "gantrain", "steps=2", f"run_dir={run}"]
        with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("step 1/2"):
                    taken = time.monotonic() - began - seconds_waiting_for_cpu(process.pid)
            assert process.wait() == 0
        return taken

    def ratio(run: str) -> float:
        done = subprocess.run([sys.executable, "-c", imports], stdout=subprocess.PIPE, text=True, check=True)
        taken, needed = seconds(run), float(done.stdout)
        print(f"at step 1 after {taken:.1f} s; the imports take {needed:.1f} s")
        return taken / needed

    assert any(ratio(run) < 2 for run in "abc")
