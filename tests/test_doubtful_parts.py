"""Parts that do the same twice, or that have no effect, are warned of."""

import logging
from pathlib import Path

import pytest
from composing import composed

from gantrain.assemble import assemble
from gantrain.tasks.job import Job

PLAYERS = ("generator", "discriminator")
SMALL = ("model.generator.width=8", "model.discriminator.width=8", "batch_size=4", "callback=[]")
R3GAN = ("model=r3gan", "dataset.image_size=8", *(f"model.{name}.group_size=8" for name in PLAYERS), *SMALL)
NO_STAGES = tuple(f"model.{name}.num_bf16_stages=0" for name in PLAYERS)
RULED_OUT = "model.discriminator.norm=none"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ((*SMALL, "regularizer=[bcr]"), None),
        ((*SMALL, "regularizer=[bcr,cr]"), "leave cr out"),
        ((*SMALL, "augment=[ada]"), None),
        ((*SMALL, "augment=[ada]", "augment.ada.target=null"), "augment.ada.strength=0 augments nothing"),
        ((*SMALL, "augment=[ada]", "augment.ada.target=null", "augment.ada.strength=0.1"), None),
        ((*SMALL, "augment=[ada,diffaugment]"), "nothing is known of the two together; choose one"),
        ((*SMALL, "regularizer=[lecam]", "loss=hinge", RULED_OUT), None),
        ((*SMALL, "regularizer=[lecam]", "loss=relativistic", RULED_OUT), "choose another loss, or leave lecam out"),
        ((*R3GAN, *NO_STAGES), None),
        ((*R3GAN, NO_STAGES[0], "runtime.precision=bf16"), None),
        ((*R3GAN, *NO_STAGES, "runtime.precision=bf16"), "num_bf16_stages is 0 in both networks"),
        ((*SMALL, "runtime.precision=bf16"), None),
    ],
)
def test_doubtful_parts_are_warned_of(
    typed: tuple[str, ...], message: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    config = composed(*typed)
    assemble(Job(name="x", folder=tmp_path, config=config, choices={}, typed=[], resume_command="gantrain"), config)
    found = [record.getMessage() for record in caplog.records if record.name == "gantrain.combinations"]
    assert len(found) == (message is not None)
    assert message is None or message in found[0]
