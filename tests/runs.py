"""What a run left behind, so that two runs can be compared to the last bit."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gantrain.callbacks.tensorboard import read_records
from gantrain.session import checkpoint

CLOCK = ("seconds", "throughput/images_per_second")
"""What depends on how fast it went."""

COMMAND = ("config", "steps_planned", "intervals", "due_at")
"""What depends on what was typed, such as resume and run_dir."""


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def points(run: Path) -> dict[tuple[str, int], bytes]:
    """Everything in the event files by tag and step, none of which may be there twice."""
    found: dict[tuple[str, int], bytes] = {}
    for path in sorted((run / "tensorboard").iterdir()):
        for _, event in read_records(path):
            for value in event.summary.value:
                if value.tag not in CLOCK and value.tag.split("/")[0] not in ("config", "_hparams_"):
                    assert (value.tag, event.step) not in found, f"{value.tag} is doubled at step {event.step}"
                    found[value.tag, event.step] = value.SerializeToString()
    return found


def shown(run: Path) -> dict[tuple[str, int], Any]:
    """What TensorBoard itself makes of them."""
    board = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    tags = board.Reload().Tags()
    events = [(tag, event) for tag in tags["scalars"] for event in board.Scalars(tag)]
    events += [(tag, event) for tag in tags["images"] for event in board.Images(tag)]
    events += [(tag, event) for tag in tags["histograms"] for event in board.Histograms(tag)]
    return {(tag, event.step): replace(event, wall_time=0) for tag, event in events if tag not in CLOCK}


def leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, dict | list | tuple):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            if key not in (*CLOCK, *COMMAND):
                yield from leaves(value, f"{place} {key}")
    elif isinstance(content, torch.Tensor):
        yield place, (str(content.dtype), tuple(content.shape), content.numpy().tobytes())
    else:
        yield place, content


def held(run: Path) -> dict[str, Any]:
    """All that a finished run holds but for the times, by where it stands."""
    newest, about = checkpoint.paths(run)[-1], record(run)
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    # How many of these there are depends on how often the run went on.
    uneven = ("tensorboard/", "checkpoints/step_", "gantrain.log")
    found = {
        "names": sorted(name for name in files if not name.startswith(uneven) or ".tmp" in name),
        "run.json": {key: about[key] for key in ("status", "error", "steps", "steps_planned", "images_seen")},
        **dict(leaves(about["metrics"], "run.json")),
        "metrics.csv": [{tag: cell for tag, cell in row.items() if tag not in CLOCK} for row in rows(run)],
        "events": points(run),
        "shown": shown(run),
        "newest": newest.name,
        **dict(leaves(checkpoint.read(newest), "checkpoint")),
        **{name: path.read_bytes() for name, path in files.items() if path.suffix in (".png", ".gif")},
    }
    if "checkpoints/best.pt" in files:
        found |= dict(leaves(checkpoint.read(files["checkpoints/best.pt"]), "best.pt"))
    assert found["shown"].keys() == found["events"].keys()
    return found


def differences(run: Path, other: Path) -> list[str]:
    """Where two finished runs differ."""
    a, b = held(run), held(other)
    return [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
