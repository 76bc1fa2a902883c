"""First use: help, version, mistaken arguments, and the first and last lines of a run."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from processes import Process, server, start, work

from gantrain.config import CONF

__all__ = ["server", "start", "work"]

ROOT = Path(__file__).parents[2]
GANTRAIN = [sys.executable, "-m", "gantrain"]


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["--steps", "60"], "you probably mean steps=60"),
        (["--steps=60", "seed=1"], "you probably mean steps=60"),
        (["--batch-size=32"], "you probably mean batch_size=32"),
        (["--lr", "1e-3"], "you probably mean optimizer.lr=1e-3"),
        (["--model", "wgan_gp"], "you probably mean model=wgan_gp"),
        (["--stepz", "60"], "--stepz: there is no such flag. Did you mean steps?"),
        (["--gpu"], "--gpu: there is no such flag. Settings are given as key=value; see gantrain --help."),
        (["-z"], "-z; see gantrain --help"),
        (["--optimizer.lr", "1e-3"], "you probably mean optimizer.lr=1e-3"),
        (["--model.generator.width=32"], "you probably mean model.generator.width=32"),
        (["--device", "cuda"], "you probably mean runtime.device=cuda"),
        (["--regularizer", "r1"], "you probably mean regularizer=[r1]"),
        (["train"], "train: gantrain trains by default; leave the word out"),
        (["wgan_gp"], "you probably mean model=wgan_gp"),
        (["celeba"], "you probably mean dataset=celeba"),
        (["sample", "run=x"], "you probably mean task=sample"),
        (["hinge"], "you probably mean loss=hinge"),
        (["r1"], "you probably mean regularizer=[r1]"),
        (["cosine"], "you probably mean schedule=[lr] schedule/shape@schedule.lr=cosine"),
        (["wgan-gp"], "you probably mean model=wgan_gp"),
        (["model", "wgan_gp"], "you probably mean model=wgan_gp"),
        (["steps", "60", "seed=1"], "you probably mean steps=60"),
        (["model"], "you probably mean model=..."),
        (["wgan_pg"], "Did you mean wgan_gp?"),
        (["--cfg"], "--cfg"),
    ],
)
def test_mistaken_arguments_get_a_suggestion(gantrain, arguments: list[str], suggestion: str) -> None:
    result = gantrain(*arguments)
    assert result.status == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("gantrain: ")
    assert suggestion in line
    assert "usage" not in result.stdout + result.stderr
    assert not Path("outputs").exists()


@pytest.mark.parametrize("arguments", ["--help | head -3", "--help | true", "--version | true"])
def test_closed_stdout_pipe_is_not_an_error(arguments: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m gantrain {arguments}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_help_to_a_full_disk_is_a_one_line_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*GANTRAIN, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["gantrain: stdout cannot be written to (No space left on device)."]


def test_help_works_in_an_ascii_locale() -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([*GANTRAIN, "--help"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "input_noise" in done.stdout


def test_first_line_is_printed_before_torch_is_imported(tmp_path: Path) -> None:
    """Importing torch takes seconds; without it the line is printed within one second."""
    (tmp_path / "watch.py").write_text(
        "import sys\n"
        "import gantrain.command.cli as cli\n"
        "original = cli.console.print\n"
        "def print_and_exit(text, *args, **kwargs):\n"
        "    print(str(text).splitlines()[0], 'torch' in sys.modules)\n"
        "    original(text, *args, **kwargs)\n"
        "    sys.exit(0)\n"
        "cli.console.print = print_and_exit\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "watch.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[0].endswith(
        "digits (the default; choose with model=, dataset= or experiment=) False"
    )


NARROW = ("model=dcgan", "model.generator.width=2", "model.discriminator.width=2", "batch_size=4")
SMALL = (*NARROW, "steps=1", "metric=[]", "callback=[log,samples]")


def test_closing_lines_have_no_color_codes(tmp_path: Path) -> None:
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "200"}
    command = [*GANTRAIN, *SMALL, "run_dir=a/b-1/2026"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    closing = done.stderr[done.stderr.index("Done: ") :]
    assert "a/b-1/2026/samples" in closing
    assert "\x1b[" not in closing.replace("\x1b[?25h", "")


SHIPPED = sorted({path.parent for path in CONF.glob("*/**/*.yaml")})


@pytest.mark.parametrize("group", SHIPPED, ids=[str(folder.relative_to(CONF)) for folder in SHIPPED])
def test_own_option_with_a_shipped_name_is_refused(gantrain, tmp_path: Path, group: Path) -> None:
    shipped = min(group.glob("*.yaml"))
    own = tmp_path / "my" / shipped.relative_to(CONF)
    own.parent.mkdir(parents=True)
    own.write_text("# mine\n_target_: mine.Thing\n")
    result = gantrain("--config-dir", "my", "steps=1", "trust=[mine]")
    assert result.status == 2
    (line,) = result.stderr.splitlines()
    folder = group.relative_to(CONF)
    assert f"my/{folder}/{shipped.name}: {folder}={shipped.stem} is shipped with gantrain" in line
    assert f"my/{folder}/my_{shipped.name}" in line
    assert not Path("outputs").exists()


def test_own_primary_config_is_refused(gantrain, tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my/train.yaml").write_text("steps: 3\n")
    result = gantrain("--config-dir", "my", "steps=1")
    assert result.status == 2
    assert "my/train.yaml: train is shipped with gantrain" in result.stderr


def test_own_option_with_a_new_name_is_accepted(gantrain, tmp_path: Path) -> None:
    (tmp_path / "my/loss").mkdir(parents=True)
    (tmp_path / "my/loss/my_hinge.yaml").write_text("# mine\n_target_: gantrain.losses.hinge.Hinge\n")
    result = gantrain("--config-dir", "my", "loss=my_hinge", *SMALL)
    assert result.status == 0, result.stderr


def test_first_line_is_printed_once_and_only_by_training_runs(start: Callable[..., Process]) -> None:
    def stderr_lines(*arguments: str) -> list[str]:
        process = start(*arguments)
        process.wait()
        return process.stderr.splitlines()

    first_line = f"gantrain {version('gantrain')}: dcgan-digits"
    trained = stderr_lines(*SMALL)
    assert trained[0] == first_line
    assert trained.count(first_line) == 1
    default = stderr_lines(*SMALL[1:])
    assert default[0].startswith(f"gantrain {version('gantrain')}: digits (the default; choose with model=")
    swept = stderr_lines("-m", "seed=0", *SMALL)
    assert any(line.startswith("Run 0: seed=0") for line in swept)
    assert first_line not in swept
    assert len(stderr_lines("task=sample", "run=nowhere", "output=x.npz")) == 1


def test_wasserstein_estimate_is_logged_only_for_wasserstein_losses(gantrain) -> None:
    small = (*NARROW, "metric=[]", "steps=4", "log_every=1", "callback=[log,csv,curves]")
    assert gantrain(*small, "run_dir=gan").status == 0
    assert gantrain(*small, "run_dir=wgan", "model=wgan", "n_critic=1").status == 0
    tags = {name: Path(name, "metrics.csv").read_text().splitlines()[0].split(",") for name in ("gan", "wgan")}
    assert "logits/gap" in tags["gan"]
    assert "wasserstein/estimate" not in tags["gan"]
    assert "wasserstein/estimate" in tags["wgan"]


def test_summary_names_architecture_and_normalization(gantrain) -> None:
    result = gantrain(*SMALL, "model=wgan", "n_critic=1")
    (generator,) = [line for line in result.stderr.splitlines() if line.startswith("generator")]
    (critic,) = [line for line in result.stderr.splitlines() if line.startswith("discriminator")]
    assert "dcgan, BatchNorm" in generator
    assert "dcgan, no normalization" in critic
