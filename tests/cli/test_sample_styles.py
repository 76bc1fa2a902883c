"""task=sample with styles: truncation, lines in W, and grids of mixed styles."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from composing import composed
from PIL import Image
from torch import Tensor

from gantrain.config_rules import check
from gantrain.errors import ConfigError
from gantrain.evaluation.sampling import labels_by_row, labels_like_data
from gantrain.models.stylegan2 import Generator
from gantrain.seeding import generator
from gantrain.session.loading import load_generator
from gantrain.tasks.samples import make_samples

CPU = torch.device("cpu")

SMALL = (
    *("model=stylegan2", "model.generator.width=4", "model.discriminator.width=2", "model.generator.w_dim=8"),
    *("model.generator.num_mapping_layers=1", "batch_size=4", "latent.z_dim=8", "steps=2", "metric=[]"),
    *("callback=[checkpoint]", "dataset.image_size=16"),
)


@pytest.fixture(scope="module")
def trained(train) -> Path:
    return train(*SMALL)


@pytest.fixture(scope="module")
def trained_with_classes(train) -> Path:
    return train(*SMALL, "network=stylegan2_cond")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def images(path: str) -> Tensor:
    with np.load(path) as archive:
        return torch.from_numpy(archive["images"])[..., 0]


def drawn_styles(G: Generator, num: int, y: Tensor | None = None) -> Tensor:
    z = torch.randn(64, 8, generator=generator(0, "sample", 0))[:num]
    with torch.no_grad():
        return G.eval().styles(z) if y is None else G.eval().styles(z, y[:num])


def pixels(G: Generator, styles: Tensor) -> Tensor:
    with torch.no_grad():
        return ((G.synthesize(styles)[:, 0] + 1) * 127.5).round().clamp(0, 255)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 5  # not a uniform gray
    assert actual.shape == expected.shape
    assert (actual.float() - expected).abs().max() <= 1  # batches of another size may round differently


def loaded(run: Path) -> Generator:
    G = load_generator(run, CPU).G
    assert isinstance(G, Generator)
    assert G.w_avg.abs().max() > 0
    return G


def test_truncation_moves_styles_to_their_mean(gantrain, run: Path) -> None:
    for name, *options in (("a",), ("b", "truncation=1"), ("c", "truncation=0.5"), ("d", "truncation=0")):
        assert gantrain("task=sample", "run=run", "num=5", f"output={name}.npz", *options).status == 0
    assert torch.equal(images("a.npz"), images("b.npz"))
    assert torch.equal(images("d.npz"), images("d.npz")[:1].expand(5, -1, -1))
    G = loaded(run)
    styles = drawn_styles(G, 5)
    assert_close(images("a.npz"), pixels(G, styles))
    assert_close(images("c.npz"), pixels(G, (styles + G.w_avg) / 2))
    assert (images("c.npz") != images("a.npz")).any()


def test_lines_in_w_go_from_each_sample_to_the_next(gantrain, run: Path) -> None:
    assert gantrain("task=sample", "run=run", "num=15", "interpolate=5", "output=a.npz", "truncation=0.8").status == 0
    G = loaded(run)
    ends = G.w_avg + 0.8 * (drawn_styles(G, 4) - G.w_avg)
    expected = [
        pixels(G, ends[i : i + 1] * (1 - t) + ends[i + 1 : i + 2] * t)
        for i in range(3)
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert_close(images("a.npz"), torch.cat(expected))
    result = gantrain("task=sample", "run=run", "interpolate=70", "output=b/")
    assert result.status == 0, result.stderr
    assert len(list(Path("b").iterdir())) == 8 * 70
    assert gantrain("task=sample", "run=run", "interpolate=5", "output=b.png").status == 0
    width, height = Image.open("b.png").size
    assert (width - 2) // 5 == (height - 2) // 8


def test_cells_of_a_grid_have_the_styles_of_their_row_and_their_column(gantrain, run: Path) -> None:
    assert gantrain("task=sample", "run=run", "num=6", "mix_from=3", "output=a.png").status == 0
    picture = torch.from_numpy(np.array(Image.open("a.png").convert("L")))
    factor, columns, rows = -(-256 // (4 * 16)), 3, 2
    cell = 16 * factor + 2
    assert picture.shape == ((rows + 1) * cell + 2, (columns + 1) * cell + 2)
    G = loaded(run)
    sources = drawn_styles(G, rows + columns)
    of_rows, of_columns = sources[:rows], sources[rows:]

    def shown(row: int, column: int) -> Tensor:
        top, left = row * cell + 2, column * cell + 2
        return picture[top : top + cell - 2 : factor, left : left + cell - 2 : factor]

    assert (shown(0, 0) == 255).all()
    for i in range(rows):
        assert_close(shown(i + 1, 0), pixels(G, of_rows[i : i + 1])[0])
        for j in range(columns):
            assert_close(shown(0, j + 1), pixels(G, of_columns[j : j + 1])[0])
            mixed = torch.cat([of_rows[i : i + 1, :3], of_columns[j : j + 1, 3:]], dim=1)
            assert_close(shown(i + 1, j + 1), pixels(G, mixed)[0])
            assert not torch.equal(shown(i + 1, j + 1), shown(i + 1, 0))


def test_labels_are_those_of_the_ends(gantrain, trained_with_classes: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_with_classes, tmp_path / "run")
    G, counts = loaded(run), load_generator(run, CPU).class_counts
    assert counts is not None
    for name, option, labels in (
        ("a", [], labels_like_data(counts, (0, "sample"))),
        ("b", ["labels=[2,5]"], labels_by_row([2, 5], 3)),
    ):
        assert gantrain("task=sample", "run=run", "num=6", "interpolate=3", f"output={name}.npz", *option).status == 0
        ends = drawn_styles(G, 3, labels(0, 64))
        lines = [ends[i].lerp(ends[i + 1], t) for i in range(2) for t in (0.0, 0.5, 1.0)]
        assert_close(images(f"{name}.npz"), pixels(G, torch.stack(lines)))
    assert gantrain("task=sample", "run=run", "labels=all", "interpolate=2", "num=18", "output=d.npz").status == 0
    assert_close(images("d.npz")[::2], pixels(G, drawn_styles(G, 10, torch.arange(10)))[:9])
    refused = gantrain("task=sample", "run=run", "labels=all", "interpolate=2", "num=16", "output=e.npz")
    assert refused.status == 2
    assert "num=16: 8 lines cannot reach all classes of labels=all; set num=18 or more" in refused.stderr
    assert gantrain("task=sample", "run=run", "labels=[2,5]", "num=4", "truncation=0.5", "output=c.npz").status == 0
    styles = drawn_styles(G, 4, torch.tensor([2, 2, 5, 5]))
    assert_close(images("c.npz"), pixels(G, (styles + G.w_avg) / 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": -0.5}, "truncation=-0.5: must be a number of at least 0"),
        ({"truncation": float("nan")}, "truncation=nan: must be a number of at least 0"),
        ({"interpolate": 1}, "interpolate=1: must be at least 2"),
        ({"interpolate": 5, "num": 12}, "num=12: must be a multiple of interpolate=5, the number of samples on a line"),
        ({"interpolate": 5, "mix_from": 2}, "mix_from=2: cannot be combined with interpolate=5"),
        ({"mix_from": 0}, "mix_from=0: must be a layer from 1 to 5, for example 2"),
        ({"mix_from": 6}, "mix_from=6: must be a layer from 1 to 5"),
        ({"mix_from": 2, "output": "x.npz"}, "output=x.npz: mix_from makes a grid; set output=x.png"),
        ({"mix_from": 2, "num": 7}, "num=7: a grid for mix_from needs equal rows; for example num=9"),
    ],
)
def test_options_that_do_not_fit_are_refused(trained: Path, options: dict[str, Any], message: str) -> None:
    config = replace(composed(), **{"output": "a.png"} | options)
    with pytest.raises(ConfigError) as refused:
        make_samples(config, load_generator(trained, CPU), num_is_typed=True, device=CPU)
    assert message in str(refused.value)


@pytest.mark.parametrize("option", ["truncation=0.7", "interpolate=4", "mix_from=1"])
def test_generators_without_styles_are_refused(trained: Path, option: str) -> None:
    name, value = option.split("=")
    config = replace(composed(), output="a.png", **{name: float(value) if "." in value else int(value)})
    styled = load_generator(trained, CPU)
    with pytest.raises(ConfigError) as refused:
        make_samples(config, replace(styled, G=torch.nn.Identity()), num_is_typed=True, device=CPU)
    assert f"{option}: the generator of this run has no styles; leave it out, or sample a run of" in str(refused.value)
    with pytest.raises(ConfigError, match="has an effect only with task=sample"):
        check(config)


def test_refused_options_end_the_command_and_leave_no_file(gantrain, run: Path) -> None:
    result = gantrain("task=sample", "run=run", "mix_from=6", "output=a.png")
    assert (result.status, [path.name for path in Path().iterdir()]) == (2, ["run"])
    assert "mix_from=6: must be a layer from 1 to 5" in result.stderr
