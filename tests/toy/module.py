"""The toy's module, data and experiment."""

import os
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from common.data.module import ContrastiveData
from common.data.samplers import sample_rng
from common.distributed.differentiable import all_gather_with_grad
from common.distributed.process import rank
from common.engine.experiment import Experiment, Plan, Stage
from common.engine.module import ContrastiveModule


class Views(Dataset):
    """Two noisy views of seeded vectors."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.base = torch.randn(cfg.data.num_samples, 8, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.base)

    def __getitem__(self, keys):
        views = [[], []]
        for index, epoch in keys:
            rng = sample_rng(self.cfg.seed, epoch, index)
            for view in views:
                noise = torch.from_numpy(rng.standard_normal(8)).float()
                view.append(self.base[index] + 0.3 * noise)
                if index == self.cfg.data.poison:
                    view[-1] = view[-1] * float("nan")
        ids = torch.tensor([index for index, _ in keys])
        return {"view_1": torch.stack(views[0]), "view_2": torch.stack(views[1]), "ids": ids}


class Toy(ContrastiveModule):
    """NT-Xent-like loss with a queue of old keys."""

    def __init__(self, cfg):
        super().__init__(cfg.optim)
        self.cfg = cfg
        self.net = nn.Sequential(
            nn.Linear(8, cfg.model.dim),
            nn.ReLU(),
            nn.Dropout(cfg.model.dropout),
            nn.Linear(cfg.model.dim, 8),
        )
        queue = F.normalize(torch.randn(cfg.model.queue_size, 8), dim=1)
        self.register_buffer("queue", queue)
        self._keys = None

    def losses(self, batch):
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))  # to have time for a kill
        if rank() == 1 and self.trainer.global_step == int(os.environ.get("TOY_HANG", "-1")):
            threading.Event().wait()  # as for a file server that is gone
        query = F.normalize(self.net(batch["view_1"]), dim=1)
        key = all_gather_with_grad(F.normalize(self.net(batch["view_2"]), dim=1))
        self._keys = key.detach()
        logits = query @ torch.cat([key, self.queue.clone()]).T / 0.2
        labels = torch.arange(len(query)) + rank() * len(query)
        return {"loss": F.cross_entropy(logits, labels)}

    def after_optimizer_step(self):
        self.queue.copy_(torch.cat([self._keys, self.queue])[: len(self.queue)])


def build_experiment(cfg):
    """Two stages; the second starts from the first one's weights."""

    def stages():
        previous = None
        for index in range(cfg.num_stages):
            module = Toy(cfg)
            if previous is not None:
                module.net.load_state_dict(previous.net.state_dict())
            data = ContrastiveData(
                Views(cfg),
                batch_size=cfg.data.batch_size,
                seed=cfg.seed,
                num_workers=cfg.data.num_workers,
            )
            yield Stage(f"stage{index}", module, data)
            previous = module
            time.sleep(float(os.environ.get("TOY_SLEEP_BETWEEN", "0")))

    def embed(module):
        return {"x": F.normalize(module.net(torch.eye(8)), dim=1)}

    def evaluate(module, workspace):
        emb = embed(module)["x"]
        return {"spread": float(emb.std()), "spread_chance": 0.0}

    def export(module, folder: Path):
        save_file(module.state_dict(), folder / "model.safetensors")

    def load_export(folder: Path):
        module = Toy(cfg)
        module.load_state_dict(load_file(folder / "model.safetensors"))
        return module.eval()

    return Experiment(
        stages=stages,
        evaluate=evaluate,
        export=export,
        load_export=load_export,
        embed=embed,
        plan=lambda: Plan(
            module=lambda: Toy(cfg),
            num_samples=cfg.data.num_samples,
            forward=lambda module, n: module.net(torch.empty(n, 8)),
        ),
    )
