"""The default experiment: when the command takes it, and that runs made with or without it resume as they were."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from composing import composed
from omegaconf import OmegaConf

from gantrain.command.default import takes_default
from gantrain.config import to_dict

NARROW = ("model.generator.width=1", "model.discriminator.width=1", "batch_size=4", "metric=[]")
QUICK = (*NARROW, "callback=[log,checkpoint]")


def experiment_of(run: str) -> str | None:
    found: str | None = json.loads(Path(run, "run.json").read_text())["choices"]["experiment"]
    return found


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("", True),
        ("steps=3 loss=hinge model.generator.width=2", True),
        ("task=benchmark", True),
        ("task=train optimizer=sgd", True),
        ("resume=auto run_dir=nowhere", True),
        ("resume=null", True),
        ("run_dir=outputs/${now:%H}", True),
        (f"run_dir={'a' * 300}", True),
        ("run_dir=a\0b", True),
        ("model=dcgan", False),
        ("model=dcgan,wgan", False),
        ("network=mlp", False),
        ("dataset=mnist", False),
        ("experiment=toy", False),
        ("+experiment=toy", False),
        ("task=sample run=a", False),
        ("task=evaluate run=a", False),
        ("resume=somewhere", False),
    ],
)
def test_default_is_taken_if_neither_model_network_dataset_nor_experiment_is_typed(typed: str, expected: bool) -> None:
    assert takes_default(typed.split()) is expected


def test_configs_are_those_of_the_experiment_and_of_the_classic_recipe(gantrain) -> None:
    def config(*typed: str) -> object:
        result = gantrain(*typed, "--cfg", "job")
        assert result.status == 0, result.stderr
        return OmegaConf.to_container(OmegaConf.create(result.stdout))

    shown = config()
    assert shown == config("experiment=digits")
    assert shown["model"]["generator"]["_target_"] == "gantrain.models.projection_cnn.Generator"
    assert shown["dataset"]["_target_"] == "gantrain.datasets.digits.digits"
    classic = config("model=dcgan")
    assert {key: classic[key] for key in ("model", "loss", "optimizer", "batch_size", "epochs", "schedule")} == {
        key: to_dict(composed())[key] for key in ("model", "loss", "optimizer", "batch_size", "epochs", "schedule")
    }
    assert classic["model"]["generator"]["_target_"] == "gantrain.models.dcgan.Generator"
    assert config("dataset=image_folder")["model"] == classic["model"]


def test_run_of_the_default_is_resumed_by_either_command(gantrain) -> None:
    assert gantrain(*QUICK, "steps=2", "run_dir=run").status == 0
    assert experiment_of("run") == "digits"
    assert yaml.safe_load(Path("run/.hydra/overrides.yaml").read_text())[0] == "experiment=digits"
    for steps, typed in ((3, (*QUICK, "run_dir=run")), (4, ("resume=run",)), (5, (*QUICK, "run_dir=run"))):
        if steps == 5:
            Path("run/.hydra/overrides.yaml").write_text("[damaged")
        done = gantrain(*typed, f"steps={steps}")
        assert done.status == 0, done.stderr
        record = json.loads(Path("run/run.json").read_text())
        assert (record["steps"], experiment_of("run")) == (steps, "digits")
    assert [event["event"] for event in record["history"]] == ["resumed"] * 3


@pytest.mark.parametrize("sweep", [(), ("-m",)])
def test_run_made_before_there_was_a_default_experiment_resumes_as_it_was(gantrain, sweep: tuple[str, ...]) -> None:
    """Such a run has no experiment in its overrides, and DCGAN as its model."""
    run = "old/0" if sweep else "old"
    assert gantrain("model=dcgan", *QUICK, "steps=4", "run_dir=straight").status == 0
    assert gantrain("model=dcgan", *sweep, "seed=0", *QUICK, "steps=2", "run_dir=old").status == 0
    saved = Path(run, ".hydra/overrides.yaml")
    overrides = yaml.safe_load(saved.read_text())
    saved.write_text(yaml.safe_dump([override for override in overrides if override != "model=dcgan"]))
    done = gantrain(*sweep, "seed=0", *QUICK, "steps=4", "run_dir=old")
    assert done.status == 0, done.stderr
    if not sweep:
        assert gantrain("resume=old", "steps=4").status == 0
    assert experiment_of(run) is None
    states = [torch.load(f"{name}/checkpoints/step_00000004.pt", weights_only=True)["G"] for name in (run, "straight")]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])


def test_sweep_of_the_default(gantrain) -> None:
    for steps in (1, 2):
        done = gantrain("-m", "seed=0,1", *QUICK, f"steps={steps}", "run_dir=sweep")
        assert done.status == 0, done.stderr
        assert [experiment_of(f"sweep/{number}") for number in (0, 1)] == ["digits", "digits"]


def test_benchmark_measures_the_default(gantrain) -> None:
    result = gantrain("task=benchmark", *NARROW, "steps=4", "output=speed.json")
    assert result.status == 0, result.stderr
    assert "digits" in Path("speed.json").read_text()


def test_samples_without_labels_have_the_frequencies_of_the_data(gantrain) -> None:
    assert gantrain(*QUICK, "steps=1", "run_dir=run").status == 0
    assert gantrain("task=sample", "run=run", "num=70", "output=samples.png").status == 0
    assert gantrain("task=sample", "run=run", "num=70", "output=digits/", "labels=all").status == 0
    assert len(list(Path("digits").glob("*_class3.png"))) == 7


@pytest.mark.parametrize("key", ["model.generator.bias", "model.discriminator.widht"])
def test_option_of_another_model_names_the_remedy(gantrain, key: str) -> None:
    refused = gantrain(f"{key}=2", "steps=1")
    assert refused.status == 2
    assert f"{key}: there is no such key" in refused.stderr
    assert "add model=dcgan" in refused.stderr
