"""Run every command of the README, and check the links and the named tests of the README and the docs."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from gantrain.command.cli import main
from gantrain.command.folders import claim_folder
from gantrain.config import CONF

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CODE = re.findall(r"```bash\n(.*?)```", README, re.S)
LINES = [line.split("#")[0].strip() for block in CODE for line in block.strip().splitlines()]
SMALL = [
    "model.generator.width=2",
    "model.discriminator.width=2",
    "batch_size=2",
    "steps=1",
    "callback=[log,checkpoint]",
]
COMMANDS = [line for line in LINES if line.startswith("gantrain")]


def test_the_readme_opens_with_the_two_commands() -> None:
    assert LINES[:2] == ["pip install . && gantrain", "pip install '.[test]' && pytest"]
    # test_install and test_learns run the first; the second runs this test.
    assert "pip install '.[test]' && pytest" in (ROOT / ".ci/run").read_text()
    assert set(LINES[2:]) == {*COMMANDS, "tensorboard --logdir outputs"}


@pytest.mark.parametrize("link", sorted({*re.findall(r"\]\(([^)#]+)", README)}))
def test_every_link_of_the_readme_exists(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_link_of_the_docs_exists() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), (page, link)


def test_every_test_named_in_reliability_exists() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 40
    for path, name in named:
        assert f"\ndef {name}(" in (ROOT / path).read_text(), (path, name)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    GlobalHydra.instance().clear()
    claim_folder.cache_clear()
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["gantrain", *arguments])
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        main()
    except SystemExit as error:
        return int(error.code or 0)
    return 0


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the files that the commands need: faces, photos, and the README's example of a loss."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8)
    for folder in ("data/celeba/img_align_celeba", "photos"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(pixels).save(tmp_path / folder / f"{i:06d}.jpg")
    (python,) = re.findall(r"```python\n(.*?)```", README, re.S)
    (config,) = re.findall(r"```yaml\n(.*?)```", README, re.S)
    (module,) = {*re.findall(r"`(\w+\.py)`", README)}
    (option,) = {*re.findall(r"`(my/loss/\w+\.yaml)`", README)}
    (tmp_path / module).write_text(python)
    (tmp_path / "my/loss").mkdir(parents=True)
    (tmp_path / option).write_text(config)
    return tmp_path


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme(line: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, *arguments = shlex.split(line)
    small = list(SMALL)
    if "task=sample" in arguments or "task=evaluate" in arguments:
        (run,) = [a.partition("=")[2] for a in arguments if a.startswith("run=")]
        assert call(monkeypatch, *SMALL, f"run_dir={run}") == 0
        small = ["num=3"] if "task=sample" in arguments else ["metric.fid.num_samples=60"]
    elif "--help" in arguments or "task=data" in arguments:
        small = []
    elif "resume=" in line:
        assert call(monkeypatch, *SMALL, f"run_dir={line.partition('resume=')[2].split()[0]}") == 0
        small = ["steps=4"]
    assert call(monkeypatch, *arguments, *small) == 0
    written = {
        "--help": [],
        "-m": workspace.glob("outputs/multirun/*/*/*/run.json"),
        "task=sample": [workspace / "samples.npz"],
        "task=evaluate": [workspace / "scores.json"],
        "task=data": [workspace / "look.png"],
    }
    kind = next((kind for kind in written if kind in arguments), None)
    if kind != "--help":
        found = list(written[kind] if kind else workspace.glob("outputs/*/*/run.json"))
        assert len(found) == (8 if kind == "-m" else 1)
        assert all(path.is_file() for path in found)


def test_the_table_of_recipes_lists_every_model_config() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", README, re.M)
    assert sorted(rows) == sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def test_tensorboard_reads_the_runs_below_outputs(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    assert call(monkeypatch, *SMALL[:-1], "callback=[log,tensorboard]") == 0
    runs = EventMultiplexer().AddRunsFromDirectory("outputs").Reload().Runs()
    assert len(runs) == 1
    (tags,) = runs.values()
    assert "loss/generator" in tags["scalars"]
