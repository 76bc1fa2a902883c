from collections.abc import Callable

import pytest
import torch
from scipy import stats

from gantrain.models.latent import Latent, Normal, TruncatedNormal, Uniform
from gantrain.seeding import generator

CPU = torch.device("cpu")
LATENTS = [Normal(z_dim=7), Uniform(z_dim=7, low=-1.0, high=1.0), TruncatedNormal(z_dim=7, bound=0.5)]


@pytest.mark.parametrize("latent", LATENTS)
def test_latents_are_float32_of_shape_n_z_dim(latent: Latent) -> None:
    z = latent(5, device=CPU)
    assert z.shape == (5, 7)
    assert z.dtype == torch.float32


def test_normal_latents_are_standard_normal() -> None:
    z = Normal(z_dim=4)(5000, device=CPU, generator=generator(0))
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    torch.testing.assert_close(torch.corrcoef(z.T), torch.eye(4), atol=0.06, rtol=0)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (2.0, 7.0)])
def test_uniform_latents_fill_their_range(low: float, high: float) -> None:
    z = Uniform(z_dim=4, low=low, high=high)(5000, device=CPU, generator=generator(0))
    assert stats.kstest(z.flatten().numpy(), "uniform", (low, high - low)).pvalue > 1e-3
    assert low <= z.min()
    assert z.max() <= high
    torch.testing.assert_close(torch.corrcoef(z.T), torch.eye(4), atol=0.06, rtol=0)


@pytest.mark.parametrize("bound", [0.04, 0.5, 2.0, 30.0])
def test_truncated_latents_follow_the_truncated_normal_distribution(bound: float) -> None:
    z = TruncatedNormal(z_dim=4, bound=bound)(5000, device=CPU, generator=generator(0))
    assert stats.kstest(z.flatten().numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 1e-3
    assert z.abs().max() <= bound
    assert z.isfinite().all()
    torch.testing.assert_close(torch.corrcoef(z.T), torch.eye(4), atol=0.06, rtol=0)


def test_truncation_is_finite_where_a_uniform_number_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(shape))
    assert TruncatedNormal(z_dim=2, bound=9.0)(1, device=CPU).tolist() == [[-9.0, -9.0]]


@pytest.mark.parametrize("latent", LATENTS)
def test_latents_depend_only_on_the_given_generator(latent: Latent) -> None:
    before = torch.get_rng_state()
    first, same = (latent(3, device=CPU, generator=generator("a")) for _ in range(2))
    torch.testing.assert_close(first, same, atol=0, rtol=0)
    assert not torch.equal(first, latent(3, device=CPU, generator=generator("b")))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("latent", LATENTS)
def test_without_a_generator_the_global_one_is_used(latent: Latent) -> None:
    torch.manual_seed(0)
    first = latent(3, device=CPU)
    second = latent(3, device=CPU)
    torch.manual_seed(0)
    torch.testing.assert_close(latent(3, device=CPU), first, atol=0, rtol=0)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal(z_dim=0), "z_dim=0: .* at least one"),
        (lambda: Uniform(z_dim=-3, low=0.0, high=1.0), "z_dim=-3: .* at least one"),
        (lambda: TruncatedNormal(z_dim=0, bound=1.0), "z_dim=0: .* at least one"),
        (lambda: TruncatedNormal(z_dim=3, bound=0.0), "bound=0.0: must be a number above 0"),
        (lambda: TruncatedNormal(z_dim=3, bound=float("inf")), "bound=inf: must be a number above 0"),
        (lambda: Uniform(z_dim=3, low=1.0, high=1.0), "low=1.0, high=1.0: low must be below high"),
        (lambda: Uniform(z_dim=3, low=2.0, high=1.0), "low=2.0, high=1.0: low must be below high"),
    ],
)
def test_empty_ranges_are_refused(make: Callable[[], Latent], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
