"""Question prediction, then answers; what `make check` builds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.config import UserError
from common.data.module import ContrastiveData
from common.encoders.pretrained import stand_in
from common.engine.experiment import Plan, Stage, weights_requirement
from common.engine.trainer import total_steps
from projects.video_qa.clips.batches import VideoQARows, Words
from projects.video_qa.config import Config
from projects.video_qa.data import load_part, main_rows, pretraining_rows, requirements
from projects.video_qa.folder import read_network
from projects.video_qa.module import VideoQA
from projects.video_qa.network import (
    VideoQANet,
    build_encoder,
    build_network,
    build_tokenizer,
    network_options,
)

# what `make check` builds for weights that are not on this machine
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert-base-uncased": {"model_type": "bert"},
    "bert-large-uncased": {
        "model_type": "bert",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}

# training questions of the sets, for files that are not on this machine
TRAINED = {"tvqa": 122_039, "tvqa_plus": 23_545, "dramaqa": 11_118}


def stages(cfg: Config) -> Iterator[Stage]:
    """The stage "pretrain" if it is asked for, then "train" with all of its weights.

    Raises:
        UserError: absent files or weights, or a main stage that would end before its first
            validation.
    """
    tokenizer = build_tokenizer(cfg)
    network, words = build_network(cfg, tokenizer), Words(tokenizer)
    options, train = cfg.pretrain, load_part(cfg, "train")

    def data(rows: VideoQARows, val: dict[str, VideoQARows] | None = None) -> ContrastiveData:
        return ContrastiveData(
            rows,
            batch_size=cfg.data.batch_size,
            seed=cfg.seed,
            num_workers=cfg.data.num_workers,
            val=val,
            eval_batch_size=cfg.eval.batch_size,
        )

    if options.weights is not None:
        network.load_state_dict(read_network(Path(options.weights), network))
    watched = cfg.trainer.val_every_n_steps is not None
    val = {"dev": main_rows(cfg, load_part(cfg, "dev"), words, training=False)} if watched else None
    rows = main_rows(cfg, train, words, training=True)
    main = Stage(
        "train", VideoQA(cfg, network), data(rows, val), monitor="val/accuracy" if watched else None
    )
    check_validations(cfg, main)
    if options.asked:
        length = {
            "max_steps": options.steps,
            "max_epochs": options.epochs,
            "val_every_n_steps": None,
        }
        yield Stage(
            "pretrain",
            VideoQA(cfg, network, "pretrain"),
            data(pretraining_rows(cfg, train, words)),
            length,
        )
    yield replace(main, module=VideoQA(cfg, network).train())  # all weights, the scores' included


def check_validations(cfg: Config, main: Stage) -> None:
    """Refuse a validation interval that the main stage never reaches, before pre-training.

    Raises:
        UserError: names the steps of the stage.
    """
    every = cfg.trainer.val_every_n_steps
    steps = 0 if every is None else total_steps(cfg.trainer, main)[0]
    if every is not None and every > steps:
        raise UserError(
            f"trainer.val_every_n_steps={every}, and the main stage has {steps} steps: no"
            f" checkpoint would be chosen by validation; set at most {steps}, or null"
        )


def plan(cfg: Config) -> Plan[VideoQA]:
    """What `make check` reports on."""
    needed = requirements(cfg)
    config = cfg.model.config or stand_in(cfg.model.pretrained, ARCHITECTURES)
    n, length = cfg.data.max_sentences, cfg.data.max_length

    def module() -> VideoQA:
        options = cfg.model
        pretrained = options.pretrained if config is None else "random"
        vocab_size = len(build_tokenizer(cfg)) if options.config else None
        encoder = build_encoder(pretrained, config, options.dropout, options.num_layers, vocab_size)
        return VideoQA(cfg, VideoQANet(encoder, **network_options(cfg)))

    def forward(module: VideoQA, batch_size: int) -> Tensor:
        masked = 1 if cfg.method.contrast_weight else 0
        ids = torch.zeros(
            batch_size * n * (cfg.pretrain.candidates + masked), length, dtype=torch.long
        )
        states: Tensor = module.network.encoder(input_ids=ids).last_hidden_state
        return states.sum()

    here = all(r.present for r in needed)
    count = len(load_part(cfg, "train").questions) if here else TRAINED.get(cfg.data.source, 1000)
    return Plan(module, count, forward, (*weights_requirement(cfg.model.pretrained), *needed))
