"""What the two processes of the tests run; importable by name."""

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from common.data.text.lexical import SurfaceSimilarity
from common.distributed.process import rank
from common.families.sentences.module import build_encoder
from projects.debcse.data import SampledViews
from projects.debcse.module import DebCSE
from projects.debcse.sampling import PairSampler
from tests.distributed.wrapped import ModuleLoss
from tests.projects.debcse.conftest import config
from tests.projects.debcse.test_sampling import example_pools


def triplet_views(*overrides: str) -> SampledViews:
    """Drawn triplets of forty made-up texts."""
    cfg = config(*overrides)
    tokenizer = build_encoder(cfg.model).tokenizer
    texts = [f"word{i} and {'so on ' * (i % 4)}" for i in range(40)]
    counts = SurfaceSimilarity(texts).word_counts
    sampler = PairSampler(example_pools(), cfg.ipw, cfg.seed)
    twin = cfg.method.twin_weight > 0
    return SampledViews(texts, counts, sampler, tokenizer, max_length=16, twin=twin)


def three_steps(distributed: bool) -> dict[str, Tensor]:
    """State after three SGD steps of eight anchors; each of two ranks draws for four."""
    cfg = config("model.dropout=0", "model.attention=eager", "method.twin_weight=0.5")
    torch.manual_seed(0)
    module = DebCSE(cfg, build_encoder(cfg.model)).double()
    views = triplet_views("method.twin_weight=0.5")
    step = ModuleLoss(module)
    wrapped = DistributedDataParallel(step) if distributed else step
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for number in range(3):
        anchors = list(range(8 * number, 8 * number + 8))
        own = anchors[4 * rank() : 4 * rank() + 4] if distributed else anchors
        optimizer.zero_grad()
        wrapped(views[[(i, number) for i in own]]).backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in module.state_dict().items()}
