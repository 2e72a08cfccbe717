"""The network of stc.py without its attention: the difference between both is all that can be checked of its paper."""

import torch

from comparisons.stc import EXTENT, FRONT_END, SETTINGS, TRACK, STCNetwork  # noqa: F401

PUBLISHED = ()
NOTE = "after the abstract; ablation of stc: the same network without the attention"


def build(classes, n_mels, frames):
    """The network for that many classes and segments (b, 1, n_mels, frames)."""
    return STCNetwork(classes, n_mels, frames, attention=False).to(memory_format=torch.channels_last)
