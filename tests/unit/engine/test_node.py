"""The model of a node: what its three rates are made of, and which one limits."""

import pytest
import torch
from torch import nn

from common.config import DataConfig, ExperimentConfig, OptimConfig, TrainerConfig
from common.engine import node
from common.engine.check import inspect
from common.engine.experiment import Plan
from common.engine.module import ContrastiveModule
from common.engine.node import Rates, node_rows, rates, sample_seconds


class Net(ContrastiveModule):
    def __init__(self):
        super().__init__(OptimConfig())
        self.layer, self.frozen = nn.Linear(1000, 1000, bias=False), nn.Linear(1000, 1000)
        self.frozen.requires_grad_(False)


def config(**trainer):
    return ExperimentConfig(
        data=DataConfig(batch_size=128, num_workers=4),
        trainer=TrainerConfig(max_steps=10, accelerator="gpu", **trainer),
    )


def rates_of(flops=1e12, seconds=1e-3, **trainer):
    with torch.device("meta"):
        module = Net()
    plan = Plan(Net, 1000, loader_seconds=seconds)
    return rates(config(**trainer), plan, module, flops)


def test_rates_are_those_of_loaders_products_and_gradients():
    rate = rates_of(devices=8, precision="bf16-mixed")
    assert rate.data == pytest.approx(8 * 4 / 1e-3)
    assert rate.compute == pytest.approx(1024 * 8 * 989e12 * 0.4 / 1e12)
    gradients = 4 * 1000**2  # bytes, of what is trained
    assert rate.network == pytest.approx(1024 / (2 * 7 / 8 * gradients / (450e9 * 0.8)))
    assert rate.limit == "data"


def test_precision_nodes_and_cores_count():
    half, single = rates_of(precision="bf16-mixed"), rates_of(precision="32-true", matmul="highest")
    assert half.compute / single.compute == pytest.approx(989 / 67)
    assert half.network is None  # nothing to reduce on one device
    near, far = rates_of(devices=8), rates_of(devices=8, num_nodes=2)
    assert near.network / far.network == pytest.approx(450 / 50 * (15 / 16) / (7 / 8) / 2)
    many = config(devices=8)
    many.data.num_workers = 30
    assert node.loader_cores(many) == node.CORES


def test_what_is_not_known_is_left_out():
    assert node_rows(rates_of(seconds=None, devices=2), 0).keys() == {"samples a second, at most"}
    assert rates_of(flops=None).limit is None
    rows = node_rows(Rates(2000.0, 1000.0, None), 7_200_000)
    assert rows["limited by (model)"] == "compute"
    assert rows["hours (model)"] == "2.00"


def test_loaders_spend_what_was_measured():
    """CPU-seconds of DCL's and the CLIP baselines' loaders, files of 500 x 375 (AMD EPYC)."""
    for views, measured in ((1, 2.03e-3), (2, 2.63e-3), (3, 3.50e-3)):
        assert sample_seconds(views=views, files=True) == pytest.approx(measured, rel=0.3)
    assert sample_seconds(texts=1) == pytest.approx(1 / 6685, rel=0.3)  # Contriever's


def test_make_check_reports_it_for_configs_of_gpus_only():
    rows = inspect("dcl", "paper", [])
    assert {"samples a second, at most", "limited by (model)", "hours (model)"} <= rows.keys()
    assert "limited by (model)" not in inspect("dcl", "smoke", [])
