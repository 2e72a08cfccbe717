"""The network of stc.py without its attention: the difference between both is all that can be checked of its paper."""

import torch

from comparisons import stc

FRONT_END, SETTINGS, TRACK = stc.FRONT_END, stc.SETTINGS, stc.TRACK
PUBLISHED = ()
EXTENT = stc.EXTENT
NOTE = "after the abstract; ablation of stc: the same network without the attention"


def build(classes, n_mels, frames):
    """The network for that many classes and segments (b, 1, n_mels, frames)."""
    return stc.STCNetwork(classes, n_mels, frames, attention=False).to(memory_format=torch.channels_last)
