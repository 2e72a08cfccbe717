"""The network of adarl.py that is not trained to know domains: only the emotions' loss trains the bands' weights."""

import torch

from comparisons import adarl

FRONT_END, SETTINGS, TRACK = adarl.FRONT_END, adarl.SETTINGS, adarl.TRACK
PUBLISHED = ()
EXTENT = adarl.EXTENT
NOTE = "after the abstract; ablation of adarl: the same network without the domains' loss"


def build(classes, n_mels, frames):
    """The network for that many classes and segments (b, 1, n_mels, frames)."""
    return adarl.BandWeightedNetwork(classes, n_mels, frames).to(memory_format=torch.channels_last)
