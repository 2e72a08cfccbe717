"""ADARL: a network whose bands are weighted by what a second network knows of the domain, here of the speaker.

Fan, Xu, Xing, Huang, Interspeech 2020. Its abstract states that knowledge of a domain, such as gender, age or language,
is put into the representation of the emotion by an attention over frequency, instead of being removed from it. Ours:
training speakers as domains, the front end of ATFNN, all layers, the loss, and the training. The weights of a tested
segment come from the segment itself: nothing of a tested speaker is fitted.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from comparisons import stc

FRONT_END = "atfnn"
SETTINGS = dict(epochs=50, batch_size=128, lr=5e-4)
TRACK = "validation"
PUBLISHED = ("ADARL",)
EXTENT = "reading"
NOTE = "after the abstract; domains are the training speakers, and nothing of a tested speaker is fitted"

DOMAIN_CHANNELS = (16, 32, 64)
EMOTION_CHANNELS = (32, 64, 128)
DOMAIN_WEIGHT = 1.0  # of the domains' cross-entropy in the loss


def blocks(inputs, channels):
    """Blocks of so many channels each, one after the other."""
    return nn.Sequential(*(stc.ConvBlock(i, c) for i, c in zip((inputs, *channels), channels)))


class BandWeightedNetwork(nn.Module):
    """The emotion branch, whose bands the domain branch weighs: (b, 1, f, t) -> (b, classes) logits of the emotions.

        z = mean_FT D(x)    w = sigmoid(Q z + q)    logits = O mean_FT E_2(E_1(x) * w) + o

    D has three blocks, E_1 one, E_2 two; w (b, f/2) has a weight for each band of E_1(x).
    Raises ValueError unless n_mels and frames are multiples of 8.
    """

    def __init__(self, classes, n_mels, frames):
        super().__init__()
        if n_mels % 8 or frames % 8:
            raise ValueError(f"ADARL: n_mels and frames must be multiples of 8, not {n_mels} and {frames}")
        self.domain_blocks = blocks(1, DOMAIN_CHANNELS)
        self.band_weights = nn.Linear(DOMAIN_CHANNELS[-1], n_mels // 2)
        self.first_block = stc.ConvBlock(1, EMOTION_CHANNELS[0])
        self.later_blocks = blocks(EMOTION_CHANNELS[0], EMOTION_CHANNELS[1:])
        self.classifier = nn.Linear(EMOTION_CHANNELS[-1], classes)

    def forward(self, x):
        return self.classify(x, self.embed_domain(x))

    def embed_domain(self, x):
        """The domain's embedding z: (b, 1, f, t) -> (b, 64)."""
        return stc.mean_over_points(self.domain_blocks(x))

    def classify(self, x, z):
        """Logits of the emotions, (b, classes), of x (b, 1, f, t) and its z (b, 64)."""
        weights = self.band_weights(z).sigmoid()  # (b, f/2)
        y = self.first_block(x) * weights[:, None, :, None]  # (b, 32, f/2, t/2)
        return self.classifier(stc.mean_over_points(self.later_blocks(y)))


class ADARLNetwork(BandWeightedNetwork):
    """The domain branch also learns to tell the training speakers from one another: domain logits = P z + p."""

    def __init__(self, classes, n_mels, frames, speakers):
        super().__init__(classes, n_mels, frames)
        self.domain_classifier = nn.Linear(DOMAIN_CHANNELS[-1], speakers)

    def losses(self, x, labels, speakers):
        """CE(emotion) + CE(domain) of segments x (b, 1, f, t), labels and speakers (b,) from 0: (b,) float32."""
        z = self.embed_domain(x)
        emotion, domain = self.classify(x, z).float(), self.domain_classifier(z).float()
        by_domain = cross_entropy(domain, speakers, reduction="none")
        return cross_entropy(emotion, labels, reduction="none") + DOMAIN_WEIGHT * by_domain


def build(classes, n_mels, frames, speakers):
    """The network for that many classes, segments (b, 1, n_mels, frames) and training speakers."""
    return ADARLNetwork(classes, n_mels, frames, speakers).to(memory_format=torch.channels_last)
