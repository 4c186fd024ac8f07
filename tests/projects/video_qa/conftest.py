"""Configs, a small network and batches of made-up clips."""

from pathlib import Path

import pytest
import torch

from common.engine.run import train
from projects.video_qa.clips.batches import VideoQABatch, VideoQARows, Words
from projects.video_qa.config import Config
from projects.video_qa.data import load_part, main_rows
from projects.video_qa.network import VideoQANet, build_network, build_tokenizer
from tests.configs import configs_of

config = configs_of(Config, "video_qa")


def network_of(cfg: Config) -> VideoQANet:
    """The network of a config from a fixed seed."""
    torch.manual_seed(0)
    return build_network(cfg, build_tokenizer(cfg))


def rows_of(cfg: Config, *, training: bool = True) -> VideoQARows:
    """Made-up training questions."""
    return main_rows(cfg, load_part(cfg, "train"), Words(build_tokenizer(cfg)), training=training)


def batch_of(cfg: Config, count: int = 6, *, training: bool = True) -> VideoQABatch:
    """The first questions as a batch."""
    batch: VideoQABatch = rows_of(cfg, training=training)[[(i, 0) for i in range(count)]]
    return batch


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """Folder of a finished smoke run."""
    return train(
        "video_qa", "smoke", [f"runs_dir={tmp_path_factory.mktemp('video_qa')}", "run_id=full"]
    )
