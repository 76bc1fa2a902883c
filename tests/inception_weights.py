"""A file of Inception's weights as torch-fidelity publishes it, with random numbers."""

from pathlib import Path

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as reference
from torch import nn


def write_random_weights(path: Path, generator: torch.Generator) -> None:
    """Write weights with which the activations neither vanish nor explode, and the classes differ between images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(reference.FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        network = reference.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator).mul_(0.1)
            module.bias.normal_(generator=generator).mul_(0.1)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5, generator=generator)
    torch.save(network.state_dict(), path)
