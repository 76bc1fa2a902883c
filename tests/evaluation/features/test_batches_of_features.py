"""Large networks see few images at a time on a CPU, and all at once on a GPU."""

import pytest
import torch
from torch import Tensor

from gantrain.evaluation.features.base import CPU_BATCH, Extracted, in_batches


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [CPU_BATCH, CPU_BATCH, 3]), ("cuda", [2 * CPU_BATCH + 3])])
@pytest.mark.parametrize("has_logits", [True, False])
def test_images_are_passed_in_batches(device: str, sizes: list[int], has_logits: bool) -> None:
    images, seen = torch.arange(2 * CPU_BATCH + 3.0)[:, None], []

    def network(x: Tensor) -> Extracted:
        seen.append(len(x))
        return Extracted(2 * x, 3 * x if has_logits else None)

    found = in_batches(images, torch.device(device), network)
    assert seen == sizes
    assert torch.equal(found.features, 2 * images)
    assert torch.equal(found.logits, 3 * images) if has_logits else found.logits is None
