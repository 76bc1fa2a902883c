import subprocess
import sys

import torch

from gantrain.seeding import generator, key, seed_everything

CPU = torch.device("cpu")


def test_keys_differ_with_every_part_and_with_their_order() -> None:
    parts = [(seed, purpose, i) for seed in range(20) for purpose in ("step", "order", "data") for i in range(50)]
    parts += [(1, 2), (2, 1), (12,), (1, 2, 0), (0,), ()]
    assert len({key(*p) for p in parts}) == len(parts)


def test_keys_are_seeds_that_torch_accepts() -> None:
    keys = [key(0, "step", i) for i in range(2000)]
    assert all(0 <= k < 2**63 for k in keys)
    assert max(keys) > 2**62
    # Each bit is 1 with probability 1/2, within 5 standard errors.
    for bit in range(63):
        assert abs(sum(k >> bit & 1 for k in keys) - 1000) < 5 * 500**0.5


def test_keys_are_the_same_in_every_process() -> None:
    code = "from gantrain.seeding import key; print(key(0, 'step', 3))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) == key(0, "step", 3)


def test_generators_of_the_same_parts_draw_the_same_numbers() -> None:
    first, same, other = generator(0, "a"), generator(0, "a"), generator(0, "b")
    draws = torch.rand(10, generator=first)
    torch.testing.assert_close(torch.rand(10, generator=same), draws, atol=0, rtol=0)
    assert not torch.equal(torch.rand(10, generator=other), draws)


def test_making_a_generator_does_not_change_the_global_one() -> None:
    before = torch.get_rng_state()
    torch.rand(3, generator=generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_everything_and_generator_draw_the_same_numbers() -> None:
    seed_everything(0, "step", 7, device=CPU)
    torch.testing.assert_close(torch.randn(10), torch.randn(10, generator=generator(0, "step", 7)), atol=0, rtol=0)


def test_seed_0_is_a_seed() -> None:
    torch.manual_seed(1)
    seed_everything(0, device=CPU)
    first = torch.rand(3)
    seed_everything(0, device=CPU)
    torch.testing.assert_close(torch.rand(3), first, atol=0, rtol=0)
