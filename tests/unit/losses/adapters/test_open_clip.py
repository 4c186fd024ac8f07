"""open_clip's constructor and call, against open_clip."""

import pytest
import torch
import torch.nn.functional as F
from open_clip import loss as open_clip

from common.losses.adapters.open_clip import ClipLoss, SigLipLoss
from tests.unit.losses.adapters.equal import assert_same, matrices


def model_out(unit: bool = True) -> tuple[dict, list]:
    """What open_clip's models return, and the tensors it depends on."""
    image, text = matrices()
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (14.3, -5.0))
    features = [F.normalize(x, dim=1) if unit else x for x in (image, text)]
    names = ("image_features", "text_features", "logit_scale", "logit_bias")
    return dict(zip(names, [*features, scale, bias], strict=True)), [image, text, scale, bias]


@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
@pytest.mark.parametrize("unit", [True, False])
def test_equals_open_clip(name, unit):
    ours, theirs = {"ClipLoss": ClipLoss, "SigLipLoss": SigLipLoss}[name], getattr(open_clip, name)
    out, leaves = model_out(unit)
    assert_same(
        lambda: ours()(**out, output_dict=True)["contrastive_loss"],
        lambda: theirs()(**out, output_dict=True)["contrastive_loss"],
        *leaves,
    )
    assert_same(lambda: ours()(*out.values()), lambda: theirs()(*out.values()), *leaves)


def test_clip_needs_no_bias():
    out, leaves = model_out()
    del out["logit_bias"]
    assert_same(lambda: ClipLoss()(**out), lambda: open_clip.ClipLoss()(**out), *leaves[:3])


def test_one_set_of_arguments_constructs_both():
    arguments = {
        "local_loss": True,
        "gather_with_grad": True,
        "cache_labels": True,
        "rank": 0,
        "world_size": 1,
    }
    out, _ = model_out()
    ours = ClipLoss(**arguments, use_horovod=False)(**out)
    torch.testing.assert_close(ours, open_clip.ClipLoss(**arguments, use_horovod=False)(**out))
    assert SigLipLoss(cache_labels=True, rank=0, world_size=1, dist_impl="gather").world_size == 1


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="use_horovod"):
        ClipLoss(use_horovod=True)
    with pytest.raises(ValueError, match="dist_impl must be"):
        SigLipLoss(dist_impl="broadcast")
    with pytest.raises(ValueError, match="chunk_size must be >= 0"):
        SigLipLoss(chunk_size=-1)
    out, _ = model_out()
    with pytest.raises(ValueError, match="rank=1 and world_size=2 were given"):
        ClipLoss(rank=1, world_size=2)(**out)


def test_half_precision_features_give_a_float32_loss():
    out, _ = model_out()
    half = {name: value.detach().to(torch.bfloat16) for name, value in out.items()}
    loss = ClipLoss()(**half)
    exact = open_clip.ClipLoss()(**{k: v.float() for k, v in half.items()})
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact)
