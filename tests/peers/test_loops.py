"""Other libraries' own training loops with our losses in place of theirs: equal weights at the end.

Needs nothing of the repository but an installed `contrastive_losses`, so that it also runs in an
environment that has only that wheel and a library (`make test-peers`).
"""

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ours = pytest.importorskip("contrastive_losses", reason="not installed: make test-peers")


def assert_equal_weights(a: nn.Module, b: nn.Module, start: nn.Module) -> None:
    """Two trained models agree, and training has changed something."""
    before = start.state_dict()
    expected = b.state_dict()
    assert any((expected[name] - value).abs().max() > 1e-4 for name, value in before.items())
    for name, value in a.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=2e-5, msg=name)


# --- open_clip ----------------------------------------------------------------------------------


def train_open_clip(model: nn.Module, loss: nn.Module, accumulate: int) -> nn.Module:
    from open_clip_train.train import train_one_epoch

    class Loader:
        num_batches, num_samples = 4, 32

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(1)
            for _ in range(self.num_batches):
                images = torch.randn(8, 3, 16, 16, generator=generator)
                yield images, torch.randint(1, 50, (8, 8), generator=generator)

    train = SimpleNamespace(dataloader=Loader(), set_epoch=lambda epoch: None)
    args = SimpleNamespace(
        device="cpu",
        precision="fp32",
        distill=False,
        accum_freq=accumulate,
        skip_scheduler=True,
        grad_clip_norm=1.0,
        horovod=False,
        rank=0,
        local_rank=0,
        world_size=1,
        batch_size=8,
        log_every_n_steps=100,
        log_local=False,
        wandb=False,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train_one_epoch(model, {"train": train}, loss, 0, optimizer, None, None, None, args)
    return model


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["ClipLoss", "SigLipLoss"])
def test_open_clip(name: str, accumulate: int) -> None:
    library = pytest.importorskip("open_clip")
    from contrastive_losses import open_clip as adapter

    torch.manual_seed(0)
    model = library.model.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        text_cfg={"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
        init_logit_bias=-5.0 if name == "SigLipLoss" else None,
        output_dict=True,
    )
    trained = [
        train_open_clip(copy.deepcopy(model), getattr(source, name)(), accumulate)
        for source in (adapter, library.loss)
    ]
    assert_equal_weights(*trained, model)


# --- sentence-transformers ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers import models
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)
    return library.SentenceTransformer(
        modules=[models.Transformer(str(folder)), models.Pooling(16)], device="cpu"
    )


def train_sentences(model: Any, make_loss: Callable[[Any], nn.Module], folder: Any) -> nn.Module:
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )

    sentences = [f"w{i} w{(3 * i) % 40} w{(7 * i) % 40}" for i in range(40)]
    columns = {
        "anchor": sentences[:32],
        "positive": [f"{s} w5" for s in sentences[:32]],
        "negative": sentences[8:40],
    }
    args = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        seed=0,
    )
    model = copy.deepcopy(model)
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=Dataset.from_dict(columns), loss=make_loss(model)
    )
    trainer.train()
    return model


SENTENCE_LOSSES = ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss")


@pytest.mark.parametrize("name", SENTENCE_LOSSES)
def test_sentence_transformers(sentence_model: Any, name: str, tmp_path: Any) -> None:
    from contrastive_losses import sentence_transformers as adapter
    from sentence_transformers import losses

    options = {"scale": 10.0} | ({"mini_batch_size": 3} if name.startswith("Cached") else {})
    trained = [
        train_sentences(
            sentence_model, lambda m, s=source: getattr(s, name)(m, **options), tmp_path
        )
        for source in (adapter, losses)
    ]
    assert_equal_weights(*trained, sentence_model)


@pytest.mark.parametrize("name", SENTENCE_LOSSES)
def test_matryoshka(sentence_model: Any, name: str, tmp_path: Any) -> None:
    from contrastive_losses import sentence_transformers as adapter
    from sentence_transformers import losses

    def matryoshka(source: Any) -> Callable[[Any], nn.Module]:
        return lambda m: losses.MatryoshkaLoss(m, getattr(source, name)(m), [16, 8], [1.0, 0.5])

    trained = [
        train_sentences(sentence_model, matryoshka(source), tmp_path)
        for source in (adapter, losses)
    ]
    assert_equal_weights(*trained, sentence_model)


def test_adaptive_layers_refuse_the_cached_loss(sentence_model: Any, tmp_path: Any) -> None:
    from contrastive_losses.sentence_transformers import CachedMultipleNegativesRankingLoss
    from sentence_transformers import losses

    def adaptive(model: Any) -> nn.Module:
        with pytest.warns(UserWarning, match="not compatible with CachedMultipleNegatives"):
            return losses.AdaptiveLayerLoss(model, CachedMultipleNegativesRankingLoss(model))

    with pytest.raises(ValueError, match="AdaptiveLayerLoss does not work"):
        train_sentences(sentence_model, adaptive, tmp_path)


# --- lightly ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NTXentLoss", "DCLLoss", "DCLWLoss"])
@pytest.mark.parametrize("autocast", [False, True])
def test_lightly(name: str, autocast: bool) -> None:
    library = pytest.importorskip("lightly.loss")
    from contrastive_losses import lightly as adapter
    from lightly.models.modules import SimCLRProjectionHead

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), SimCLRProjectionHead(32, 32, 8))
    trained = []
    for source in (adapter, library):
        own, loss = copy.deepcopy(model), getattr(source, name)(temperature=0.2)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.05)
        generator = torch.Generator().manual_seed(1)
        for _ in range(5):
            images = torch.randn(16, 12, generator=generator)
            noise = 0.1 * torch.randn(2, 16, 12, generator=generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                first, second = own(images + noise[0]), own(images + noise[1])
                value = loss(first, second)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        trained.append(own)
    if not autocast:
        assert_equal_weights(*trained, model)
    else:  # theirs rounds logits to bfloat16
        for a, b in zip(*(m.parameters() for m in trained), strict=True):
            torch.testing.assert_close(a, b, rtol=0.1, atol=0.02)


# --- pytorch-metric-learning --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SupConLoss", "NTXentLoss"])
def test_pytorch_metric_learning(name: str) -> None:
    library = pytest.importorskip("pytorch_metric_learning.losses")
    from contrastive_losses import pytorch_metric_learning as adapter
    from pytorch_metric_learning.trainers import MetricLossOnly

    torch.manual_seed(0)
    model = nn.Linear(12, 8)
    data = torch.utils.data.TensorDataset(torch.randn(32, 12), torch.arange(32) % 5)
    trained = []
    for source in (adapter, library):
        own = copy.deepcopy(model)
        torch.manual_seed(1)
        trainer = MetricLossOnly(
            models={"trunk": own},
            optimizers={"trunk_optimizer": torch.optim.SGD(own.parameters(), lr=0.5)},
            batch_size=16,
            loss_funcs={"metric_loss": getattr(source, name)(temperature=0.2)},
            dataset=data,
            data_device=torch.device("cpu"),
            dataloader_num_workers=0,
            loss_weights={"metric_loss": 1.0},
        )
        trainer.train(num_epochs=2)
        trained.append(own)
    assert_equal_weights(*trained, model)


def test_pytorch_metric_learning_self_supervised() -> None:
    library = pytest.importorskip("pytorch_metric_learning.losses")
    from contrastive_losses import pytorch_metric_learning as adapter

    x, y = torch.randn(2, 8, 4)
    for name in ("SupConLoss", "NTXentLoss"):
        values = [
            library.SelfSupervisedLoss(getattr(source, name)(), symmetric=symmetric)(x, y)
            for symmetric in (True, False)
            for source in (adapter, library)
        ]
        torch.testing.assert_close(values[0], values[1])
        torch.testing.assert_close(values[2], values[3])
