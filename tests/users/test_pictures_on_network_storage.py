"""What a user sees whose pictures are on a NAS or an external disk: the folders that systems make are no pictures."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import run_json

from gantrain.session import checkpoint

RUN = (
    *("model=dcgan", "model.generator.width=2", "model.discriminator.width=1", "dataset.image_size=16", "batch_size=2"),
    *("dataset=image_folder", "dataset.root=photos", "run_dir=run", "steps=1", "metric=[]", "++callback.samples.num=4"),
)
PICTURES = ("cat/1.png", "cat/2.png", "dog/3.png")


def write(*names: str) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path, "png")


def test_thumbnails_and_recycle_bins_are_neither_pictures_nor_classes(gantrain: Callable):
    write(*PICTURES, "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/old.png", "$RECYCLE.BIN/S-1/$R1.png")
    conditional = gantrain(*RUN, "network=cdcgan")
    assert (conditional.status, run_json(Path("run"))["dataset"]["num_images"]) == (0, 3), conditional.stderr
    assert "3 images in photos; left out: folders that systems make (" in conditional.stderr
    assert len(checkpoint.find("run")[1]["class_counts"]) == 2


def deny(monkeypatch: pytest.MonkeyPatch, *folders: str) -> None:
    """Let listing these folders fail, as for any user but root."""
    listing = os.scandir

    def scandir(folder):
        if not isinstance(folder, int) and Path(folder).name in folders:
            raise PermissionError(13, "Permission denied", str(folder))
        return listing(folder)

    monkeypatch.setattr(os, "scandir", scandir)


def test_unreadable_folders_of_the_system_do_not_end_the_run(gantrain: Callable, monkeypatch: pytest.MonkeyPatch):
    write(*PICTURES, "lost+found/x.png", "System Volume Information/y.png")
    deny(monkeypatch, "lost+found", "System Volume Information")
    assert (gantrain(*RUN).status, run_json(Path("run"))["dataset"]["num_images"]) == (0, 3)


def test_other_unreadable_folder_is_named_and_can_be_left_out(gantrain: Callable, monkeypatch: pytest.MonkeyPatch):
    write(*PICTURES, "bird/4.png")
    deny(monkeypatch, "bird")
    refused = gantrain(*RUN)
    assert refused.status == 2
    assert "1 of 4 images of photos are bad: bird/ cannot be listed (Permission denied)." in refused.stderr
    assert gantrain(*RUN, "dataset.max_bad_fraction=0.25").status == 0
