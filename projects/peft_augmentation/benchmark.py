"""A training step of P-tuning against peft's own prefix tuning of a classifier, in one run.

    python -m projects.peft_augmentation.benchmark [--rounds 5]

Both have the encoder, head and batch of the `mini` and the same trained parameters. peft's
contender is `PeftModel` for features (its classifier class refuses encoders in this version of
transformers) with a linear head, padded to the longest row as its examples do. Steps alternate; CPU
seconds of one thread, median of the rounds.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import results_folder, write_table
from common.config import load
from common.encoders.text.tower import load_transformer
from projects.peft_augmentation.classification.module import first_classifier
from projects.peft_augmentation.config import Config
from projects.peft_augmentation.module import PeftAugmentation
from projects.peft_augmentation.stages import training_data

OUT = results_folder(quick=False) / "peft_augmentation.csv"


class PeftLoop(nn.Module):
    """Prefix tuning as the peft library does it."""

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__()
        import peft

        backbone = load_transformer(cfg.model.pretrained, attention=cfg.model.attention)
        config = peft.PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION", num_virtual_tokens=cfg.tuning.prefix_length
        )
        self.encoder = peft.get_peft_model(backbone, config)
        self.head = nn.Linear(backbone.config.hidden_size, classes)

    def loss(self, batch: Any) -> Tensor:
        """Cross-entropy of a batch."""
        states = self.encoder(**batch["inputs"]).last_hidden_state
        mask = batch["inputs"]["attention_mask"][..., None]
        vectors = (states * mask).sum(1) / mask.sum(1)
        return nn.functional.cross_entropy(self.head(vectors), batch["labels"])


def main() -> None:
    """Measure, print, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cfg = load(Config, "peft_augmentation", "mini", ["contrast.weight=0"])
    own = PeftAugmentation(cfg, first_classifier(cfg)).train()
    peer = PeftLoop(cfg, len(own.classifier.classes)).train()
    data = training_data(cfg, own).train_set
    contenders = {
        "ours": (own, lambda batch: own.losses(batch)["loss"]),
        "peft": (peer, peer.loss),
    }
    optimizers = {
        name: torch.optim.AdamW([p for p in module.parameters() if p.requires_grad])
        for name, (module, _) in contenders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for step in range(args.rounds + 1):
        batch = data[
            [
                (i, step)
                for i in range(
                    cfg.data.batch_size * step % 80, cfg.data.batch_size * step % 80 + 16
                )
            ]
        ]
        for name, (_, loss) in contenders.items():
            start = time.process_time()
            optimizers[name].zero_grad()
            loss(batch).backward()
            optimizers[name].step()
            if step:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    rows = []
    for name, (module, _) in contenders.items():
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        rows.append([name, trained, f"{statistics.median(seconds[name]):.4f}"])
    ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["peft"], strict=True))
    for row in rows:
        print("  ".join(f"{cell!s:>12}" for cell in row))
    print(f"peft / ours, median of {args.rounds} paired steps: {ratio:.2f}")
    names = ["implementation", "trained_parameters", "cpu_seconds_a_step", "peft_over_ours"]
    write_table(names, [[*row, f"{ratio:.2f}"] for row in rows], OUT)


if __name__ == "__main__":
    main()
