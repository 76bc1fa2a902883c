"""LeCam matches golden numbers and computations by hand, also after resuming and with several processes."""

import io
from pathlib import Path

import pytest
import torch
from oracles import load, oracle_files
from torch import Tensor
from update_batches import batch_of_logits, sum_of_entries

from gantrain import seeding
from gantrain.regularizers.lecam import LeCam

each_file = pytest.mark.parametrize("path", oracle_files("lecam_sequence*.npz"), ids=lambda path: path.stem)


def penalty(lecam: LeCam, real_logits: Tensor, fake_logits: Tensor, *, step: int, batch_size: int = 0) -> Tensor:
    images = step * (batch_size or len(real_logits))
    return lecam.discriminator_penalty(sum_of_entries, batch_of_logits(real_logits, fake_logits, images=images))


def golden(path: Path, dtype: torch.dtype, *, weight: float = 1.0) -> tuple[LeCam, dict[str, Tensor]]:
    arrays = load(path, dtype)
    decay, start = float(arrays["hyper.decay"]), int(arrays["hyper.start_iteration"])
    lecam = LeCam(weight=weight, decay=decay, start=start, every=1)
    lecam.load_state_dict({"averages": arrays["hyper.initial_value"].expand(2)})
    return lecam, arrays


@each_file
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 2e-7)])
def test_each_step_matches_the_golden_one(path: Path, dtype: torch.dtype, tolerance: float) -> None:
    lecam, arrays = golden(path, dtype, weight=2.0)
    found: dict[str, list[Tensor]] = {"ema_of_mean_real_logit": [], "ema_of_mean_fake_logit": [], "lecam_term": []}
    for step, (real, fake) in enumerate(zip(arrays["in.real_logits"], arrays["in.fake_logits"], strict=True)):
        term = penalty(lecam, real, fake, step=step) / 2
        for values, x in zip(found.values(), [*lecam.averages.clone(), term], strict=True):
            values.append(x)
    for name, values in found.items():
        expected = arrays[f"out.{name}"]
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(torch.stack(values), expected, rtol=0, atol=atol)


@each_file
def test_resuming_at_any_step_makes_the_same_steps(path: Path) -> None:
    lecam, arrays = golden(path, torch.float32)
    steps = list(zip(arrays["in.real_logits"], arrays["in.fake_logits"], strict=True))
    whole, files = [], []
    for step, logits in enumerate(steps):
        files.append(io.BytesIO())
        torch.save(lecam.state_dict(), files[-1])
        whole.append(penalty(lecam, *logits, step=step))
    for begin, file in enumerate(files):
        file.seek(0)
        resumed, _ = golden(path, torch.float32)
        resumed.load_state_dict(torch.load(file, weights_only=True))
        rest = [penalty(resumed, *logits, step=step) for step, logits in enumerate(steps) if step >= begin]
        assert torch.equal(torch.stack(rest), torch.stack(whole[begin:]))


def test_penalty_matches_a_computation_by_hand() -> None:
    lecam = LeCam(weight=3.0, decay=0.75, start=1, every=1)
    # Before `start`, the averages are the means 2 and -1: real exceeds -1 by 2 and 4, fake is below 2 by 4 and 2.
    found = penalty(lecam, torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.0]), step=0)
    torch.testing.assert_close(found, torch.tensor(3 * ((4 + 16) / 2 + (16 + 4) / 2)))
    # From `start` on they are moving averages: 3/4 2 + 1/4 (-2) = 1 and 3/4 (-1) + 1/4 3 = 0.
    found = penalty(lecam, torch.tensor([-4.5, 0.5]), torch.tensor([6.0, 0.0]), step=1)
    torch.testing.assert_close(lecam.averages, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor(3 * (0.25 / 2 + 1 / 2)))


def test_moving_averages_are_detached() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 6, dtype=torch.float64, requires_grad=True).unbind()
    lecam = LeCam(weight=1.5, decay=0.5, start=0, every=1)
    found = torch.autograd.grad(penalty(lecam, real, fake, step=3), [real, fake])
    real_average, fake_average = lecam.averages
    assert not lecam.averages.requires_grad
    torch.testing.assert_close(found[0], 1.5 * 2 * (real - fake_average).clamp(min=0).detach() / 6)
    torch.testing.assert_close(found[1], -1.5 * 2 * (real_average - fake).clamp(min=0).detach() / 6)


def test_state_is_changed_in_place_and_the_clock_may_be_a_tensor() -> None:
    """A replayed update reads and writes the tensors with which it was captured."""
    torch.manual_seed(0)
    lecam, same = (LeCam(weight=1.0, decay=0.9, start=3, every=1) for _ in range(2))
    images = torch.tensor(0)
    held = lecam.averages
    for step, logits in enumerate(torch.randn(6, 2, 4)):
        images.fill_(4 * step)
        found = lecam.discriminator_penalty(sum_of_entries, batch_of_logits(*logits, images=images))
        assert torch.equal(found, penalty(same, *logits, step=step))
        assert torch.equal(lecam.averages, same.averages)
    lecam.load_state_dict({"averages": torch.tensor([1.0, 2.0])})
    assert lecam.averages is held
    assert held.tolist() == [1.0, 2.0]
    assert all(isinstance(x, Tensor) for x in lecam.state_dict().values())


def test_checkpoint_without_lecam_does_not_change_the_averages() -> None:
    lecam = LeCam(weight=1.0, decay=0.9, start=3, every=1)
    penalty(lecam, torch.ones(4), torch.zeros(4), step=0)
    lecam.load_state_dict({})
    assert lecam.averages.tolist() == [1.0, 0.0]


def test_means_are_taken_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one = LeCam(weight=1.0, decay=0.9, start=2, every=1)
    ranks = [LeCam(weight=1.0, decay=0.9, start=2, every=1) for _ in range(2)]
    for step, (real, fake) in enumerate(torch.randn(5, 2, 6)):
        monkeypatch.undo()
        whole = penalty(one, real, fake, step=step)
        monkeypatch.setattr(seeding, "whole_batch", lambda x, real=real, fake=fake: torch.stack([real, fake], dim=1))
        parts = []
        for rank, lecam in enumerate(ranks):
            monkeypatch.setattr(seeding, "shard", seeding.Shard(rank=rank, world_size=2, rows=3))
            parts.append(penalty(lecam, real.chunk(2)[rank], fake.chunk(2)[rank], step=step, batch_size=6))
            assert torch.equal(lecam.averages, one.averages)
        torch.testing.assert_close((parts[0] + parts[1]) / 2, whole)
