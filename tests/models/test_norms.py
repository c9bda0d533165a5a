import copy

import pytest
import torch
from variants import forward, make, pixels

from stacked_ram.models.retina.norms import batch_norms, synchronise


@pytest.mark.parametrize("name", ["conv", "backbone_glance", "stack_backbone"])
def test_synchronised_norms_give_the_same_network(name):
    model, images = make(name), pixels()
    with torch.no_grad():
        forward(model.train(), images)  # statistics other than the initial ones
        model.eval()
        other = copy.deepcopy(model)
        synchronise(other)
        found, wanted = forward(other, images).logits_BTN, forward(model, images).logits_BTN
    torch.testing.assert_close(found, wanted, atol=0, rtol=0)
    assert batch_norms(other)
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in batch_norms(other))
    assert other.state_dict().keys() == model.state_dict().keys()
    assert not any(norm.training for norm in batch_norms(other))
