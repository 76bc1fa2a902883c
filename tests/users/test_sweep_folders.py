"""What a user sees who gives the runs of a sweep folders of their own, as in -m seed=0,1 'run_dir=e/${seed}'."""

import json
import time
from pathlib import Path

import pytest
from runs import run_json

from gantrain.command.folders import check_not_inside_run, register, take
from gantrain.errors import ConfigError
from gantrain.tasks import train
from gantrain.tasks.job import Job

QUICK = (
    *("model=dcgan", "model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]"),
    *("steps=1", "callback=[log]"),
)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each run only write its record: the folders are what matters."""

    def write_record(job: Job) -> None:
        (job.folder / "run.json").write_text(json.dumps({"seed": job.config.seed, "versions": {"gantrain": "1"}}))

    write_record.__module__ = train.__name__  # of which a config may name functions
    monkeypatch.setattr(train, "train", write_record)


def runs(folder: Path) -> dict[str, int]:
    """The seed of each run below a folder."""
    found = {path.parent: run_json(path.parent)["seed"] for path in folder.rglob("run.json")}
    assert not [path for path in found if {*path.parents} & {*found}], "a run is inside another"
    return {str(path.relative_to(folder)): seed for path, seed in found.items()}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("seed=0,1", "run_dir=e/${seed}"), {"e/0": 0, "e/1": 1}),
        (("seed=0,1", "run_dir='${seed},lr${optimizer.lr}'"), {"0,lr0.0002": 0, "1,lr0.0002": 1}),
        (("seed=0,1", "run_dir=e/${hydra:job.num}"), {"e/0": 0, "e/1": 1}),
        (("seed=3", "run_dir=e/0,e/1"), {"e/0": 3, "e/1": 3}),
        (("seed=0,1", "run_dir=e"), {"e/0": 0, "e/1": 1}),
        (("seed=0,1", "run_dir='${oc.env:GANTRAIN_TEST_PLACE,en}/e'"), {"en/e/0": 0, "en/e/1": 1}),
        (("seed=0,1", "run_dir='${oc.env:GANTRAIN_TEST_PLACE,en}/${seed}'"), {"en/0": 0, "en/1": 1}),
    ],
)
def test_each_run_has_the_folder_that_its_run_dir_names(
    gantrain, untrained, tmp_path: Path, typed: tuple[str, ...], expected: dict[str, int]
) -> None:
    result = gantrain("-m", *QUICK, *typed)
    assert result.status == 0, result.stderr
    assert runs(tmp_path) == expected
    assert not list(tmp_path.glob("outputs/*"))  # no folder is left that belongs to no run


def test_the_same_command_resumes_each_run(gantrain, tmp_path: Path) -> None:
    command = ("-m", *QUICK[:-1], "callback=[checkpoint]", "seed=0,1", "run_dir=e/${seed}")
    assert gantrain(*command).status == 0
    longer = [argument if argument != "steps=1" else "steps=2" for argument in command]
    assert gantrain(*longer).status == 0
    assert runs(tmp_path) == {"e/0": 0, "e/1": 1}
    assert [run_json(tmp_path / f"e/{i}")["steps"] for i in (0, 1)] == [2, 2]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("seed=0,1", "run_dir=e/${batch_size}"), "would have the same folder as the run with"),
        (("seed=0,1", "n_critic=1,2", "run_dir=e/${seed}"), "write every swept key into run_dir"),
        (("run_dir=e,e/1",), "would have a folder inside or around that of the run with"),
    ],
)
def test_runs_that_would_share_a_folder_are_refused_before_the_first_starts(
    gantrain, tmp_path: Path, typed: tuple[str, ...], message: str
) -> None:
    result = gantrain("-m", *QUICK, *typed)
    assert result.status == 2
    assert message in result.stderr, result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_run_dir_of_a_config_may_depend_on_the_run_too(gantrain, untrained, tmp_path: Path) -> None:
    (tmp_path / "my/experiment").mkdir(parents=True)
    (tmp_path / "my/experiment/mine.yaml").write_text("# @package _global_\nrun_dir: e/${seed}\n")
    result = gantrain("--config-dir", "my", "-m", "experiment=mine", *QUICK[1:], "seed=0,1")
    assert result.status == 0, result.stderr
    assert runs(tmp_path) == {"e/0": 0, "e/1": 1}


def test_a_run_goes_below_the_run_json_of_another_program(gantrain, untrained, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for content in (
        '{"versions": {"other": "1"}}',
        '{"run": 7}',
        "[]",
        '{"versions": 3}',
        "no JSON",
        '{"versions": "x"}',
    ):
        (tmp_path / "a/run.json").write_text(content)
        check_not_inside_run(tmp_path / "a/b")
    assert gantrain(*QUICK, "run_dir=a/b").status == 0


def test_the_folders_of_many_runs_are_compared_in_no_time() -> None:
    """Compared with all others, those of 1,000 runs take 6 s of a core, those of 10,000, the maximum, ten minutes."""
    register(fixed_run_dir=False)
    start = time.process_time()
    for i in range(1000):
        take(f"e/{i}", [f"seed={i}"])
    assert time.process_time() - start < 2
    for run_dir in ("e", "e/7", "e/7/a"):
        with pytest.raises(ConfigError, match="Each run of a sweep needs its own"):
            take(run_dir, ["seed=-1"])
    register(fixed_run_dir=False)


def test_no_run_or_sweep_goes_into_the_folder_of_a_run(gantrain, untrained, tmp_path: Path) -> None:
    assert gantrain(*QUICK, "run_dir=a").status == 0
    for typed in (("run_dir=a/b",), ("-m", "seed=0,1", "run_dir=a"), ("-m", "seed=0,1", "run_dir=a/${seed}")):
        result = gantrain(*QUICK, *typed)
        assert result.status == 2
        assert "inside" in result.stderr
        assert "run a; choose one beside it" in result.stderr or "run_dir=a holds a run" in result.stderr
    assert runs(tmp_path) == {"a": 0}
