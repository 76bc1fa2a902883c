"""What a user sees with a closed stderr, a limit on memory, or a config that cannot be read: no traceback."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from runs import run_json

from gantrain.engine import memory
from gantrain.session import checkpoint

SMALL = (
    *("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]", "steps=1"),
    *("++callback.samples.num=4",),
)


def test_a_run_with_closed_stdout_and_stderr_trains(tmp_path: Path) -> None:
    words = " ".join([sys.executable, "-m", "gantrain", *SMALL, "run_dir=out"])
    done = subprocess.run(["bash", "-c", f"exec {words} >&- 2>&- <&-"], cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0
    assert (run_json(tmp_path / "out")["status"], run_json(tmp_path / "out")["error"]) == ("finished", None)
    assert checkpoint.read(checkpoint.paths(tmp_path / "out")[-1])["step"] == 1


def test_a_message_is_discarded_without_a_stream(gantrain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert gantrain("stpes=1").status == 2


@pytest.fixture(scope="module")
def run(train) -> Path:
    return train(*SMALL)


def limit_memory(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    """As `ulimit -v` does."""
    limits = {resource.RLIMIT_AS: num_bytes}
    monkeypatch.setattr(memory.resource, "getrlimit", lambda kind: (limits.get(kind, resource.RLIM_INFINITY),) * 2)


def test_a_grid_that_does_not_fit_is_refused_before_any_sample_is_made(
    gantrain, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 500_000_000)
    result = gantrain("task=sample", f"run={run}", "num=120000", "output=x.png")
    assert result.status == 2
    assert "num=120000: the samples of a grid alone need 753 MB, but cpu has 500 MB" in result.stderr
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    for num in (10**11, 10**30):
        result = gantrain("task=sample", f"run={run}", f"num={num}", "output=x.png")
        assert result.status == 2
        assert f"num={num}: the samples of a grid alone need" in result.stderr
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_runs_out_while_a_grid_is_made_is_named(
    gantrain, run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("gantrain.evaluation.sample_files.grid", fail)
    result = gantrain("task=sample", f"run={run}", "num=8", "output=x.png")
    assert result.status == 1
    assert "num=8: memory ran out, because a grid is made as a whole; use a smaller num, or write a" in result.stderr
    assert "Traceback" not in result.stderr


def test_samples_are_made_block_by_block_whatever_their_number(run: Path) -> None:
    import torch

    from gantrain.evaluation.sampling import sample_blocks
    from gantrain.session.loading import load_generator

    loaded = load_generator(run, torch.device("cpu"))
    blocks = sample_blocks(loaded.G, loaded.latent, 10**12, device=torch.device("cpu"), key=(0,))
    assert len(next(blocks)) == 64  # a list of all blocks would not fit into memory


CONFIGS = {
    "latin": "my/loss/latin.yaml is not UTF-8 text; save it in the encoding UTF-8",
    "wide": "my/loss/wide.yaml is not UTF-8 text",
    "dangling": "loss=dangling: my/loss/dangling.yaml is a link to nowhere.yaml, which does not exist",
    "folder": "loss=folder: my/loss/folder.yaml is not a file",
    "short": "loss=short: the name of a config ends in .yaml; rename my/loss/short.yml to short.yaml",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_cannot_be_read_is_named_with_the_cause(gantrain, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "my/loss"
    folder.mkdir(parents=True)
    if name == "latin":
        (folder / "latin.yaml").write_bytes("# café\n_target_: x.y\n".encode("latin-1"))
    elif name == "wide":
        (folder / "wide.yaml").write_text("_target_: x.y\n", encoding="utf-16")
    elif name == "dangling":
        (folder / "dangling.yaml").symlink_to("nowhere.yaml")
    elif name == "folder":
        (folder / "folder.yaml").mkdir()
    else:
        (folder / "short.yml").write_text("_target_: x.y\n")
    result = gantrain("--config-dir", "my", f"loss={name}", "steps=1")
    assert result.status == 2
    assert CONFIGS[name] in result.stderr
    assert "Traceback" not in result.stderr
    assert gantrain("--config-dir", "my", "--help").status == 0


def test_the_help_of_hydra_is_shown(gantrain) -> None:
    result = gantrain("--hydra-help")
    assert result.status == 0, result.stderr
    assert "--multirun" in result.stdout
