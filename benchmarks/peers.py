"""The widely used way, as a yardstick: glimpses cut in a Python loop over the batch.

Our own few plain lines of what PyTorch implementations of the Recurrent Attention Model commonly
do: at every step and scale the whole batch is padded, each photo's patch is sliced out in a loop,
the slices are joined and average-pooled to the smallest scale. The network is the paper's (Mnih
et al., 2014): what and where layers, a ReLU core, a location network, a baseline, REINFORCE.

B photos, T steps, K patches, P patch size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def loop_glimpse(pixels_B1HW: Tensor, locations_B2: Tensor, size: int, patches: int) -> Tensor:
    """Co-centred patches of float photos, flattened: (B, K * P * P)."""
    side = pixels_B1HW.shape[-1]
    scales = []
    for k in range(patches):
        width = size * 2**k
        pad = width // 2
        padded = functional.pad(pixels_B1HW, (pad, pad, pad, pad))
        corners = (0.5 * (locations_B2 + 1) * side).long()
        cut = []
        for photo, (x, y) in zip(padded, corners, strict=True):
            cut.append(photo[:, y : y + width, x : x + width])
        scale = torch.stack(cut)
        scales.append(functional.avg_pool2d(scale, 2**k) if k else scale)
    return torch.cat(scales, 1).flatten(1)


class PeerRAM(nn.Module):
    """One training step of it, photos to loss. `given`: patches in place of the glimpses'."""

    def __init__(self, size: int, patches: int, steps: int, std: float = 0.15, classes: int = 10):
        super().__init__()
        self.size, self.patches, self.steps, self.std = size, patches, steps, std
        self.what = nn.Linear(patches * size * size, 128)
        self.where = nn.Linear(2, 128)
        self.what_out, self.where_out = nn.Linear(128, 256), nn.Linear(128, 256)
        self.from_glimpse, self.from_state = nn.Linear(256, 256), nn.Linear(256, 256)
        self.location_hidden, self.location = nn.Linear(256, 128), nn.Linear(128, 2)
        self.baseline, self.classifier = nn.Linear(256, 1), nn.Linear(256, classes)

    def forward(self, pixels_B1HW: Tensor, labels_B: Tensor, given: Tensor | None = None) -> Tensor:
        state = pixels_B1HW.new_zeros(len(pixels_B1HW), 256)
        location = pixels_B1HW.new_empty(len(pixels_B1HW), 2).uniform_(-1, 1)
        log_probs, baselines = [], []
        for _ in range(self.steps):
            patches = given
            if given is None:
                patches = loop_glimpse(pixels_B1HW, location, self.size, self.patches)
            what = self.what_out(self.what(patches).relu())
            where = self.where_out(self.where(location).relu())
            glimpse = (what + where).relu()
            state = (self.from_glimpse(glimpse) + self.from_state(state)).relu()
            mean = self.location(self.location_hidden(state.detach()).relu()).float().tanh()
            policy = torch.distributions.Normal(mean, self.std)
            sample = policy.sample()
            log_probs.append(policy.log_prob(sample).sum(1))
            baselines.append(self.baseline(state.detach()).float().squeeze(1))
            location = sample.clamp(-1, 1)
        log_beliefs = self.classifier(state).float().log_softmax(1)
        reward = (log_beliefs.detach().argmax(1) == labels_B).float().unsqueeze(1)
        baseline, log_prob = torch.stack(baselines, 1), torch.stack(log_probs, 1)
        policy_loss = -(log_prob * (reward - baseline.detach())).sum(1).mean()
        errors = functional.mse_loss(baseline, reward.expand_as(baseline))
        return functional.nll_loss(log_beliefs, labels_B) + errors + policy_loss
