"""A W&B server that is away, slow or refuses the key costs one warning, not the run."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.config import ExperimentConfig, TrackingConfig, TrainerConfig
from common.engine import tracking
from common.engine.tracking import describe
from common.engine.workspace import Workspace
from common.registry import config_class
from tests.toy.command import Command

pytestmark = pytest.mark.slow

KEY = "0123456789" * 4


@contextmanager
def server(
    code: int, answer: object, wait: threading.Event | None = None, otherwise: int | None = None
) -> Iterator[str]:
    """A server that gives one answer to everything, or but to the first question; its address."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if wait is not None:
                wait.wait(60)
            seen.append(self.path)
            body = json.dumps(answer).encode()
            self.send_response(code if len(seen) == 1 or otherwise is None else otherwise)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        if wait is not None:
            wait.set()
        running.shutdown()
        running.server_close()


def closed_port() -> str:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{place.getsockname()[1]}"


def train(tmp_path: Path, address: str) -> tuple[Command, Path]:
    words = [
        "train",
        "toy",
        "smoke",
        f"runs_dir={tmp_path}",
        "run_id=r",
        "num_stages=1",
        "trainer.max_steps=2",
        "tracking.wandb=online",
    ]
    env = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": address}
    command = Command(tmp_path / "printed", *words, env=env)
    assert command.ends() == 0, command.errors
    assert (tmp_path / "toy/smoke/r/metrics.json").exists()
    return command, tmp_path / "toy/smoke/r"


KNOWN = {"data": {"viewer": {"id": "x"}}}


@pytest.mark.parametrize(
    "place",
    [
        lambda: nullcontext(closed_port()),
        lambda: server(401, {}),
        lambda: server(200, {}, threading.Event()),
        lambda: server(200, KNOWN, otherwise=503),
    ],
    ids=["nobody", "refuses the key", "never answers", "takes no run"],
)
def test_a_run_goes_on_offline_under_the_same_id(tmp_path, monkeypatch, place):
    monkeypatch.setattr(tracking, "PATIENCE", 2.0)  # of the fork, too
    with place() as address:
        command, run = train(tmp_path, address)
    (folder,) = run.glob("wandb/offline-run-*-r")
    assert command.errors.count("Weights & Biases") == 1
    assert f"{address} takes no run" in command.errors
    assert f"tracked offline in {run / 'wandb'}" in command.errors
    assert "Traceback" not in command.errors
    assert f"wandb sync {folder}" in command.printed


def test_a_service_that_dies_does_not_take_the_run_with_it(tmp_path):
    """The answer is none that W&B's service expects; it ends with a panic, early or late."""
    with server(200, KNOWN) as address:
        command, run = train(tmp_path, address)
    assert "continues" in command.errors
    assert re.search(rf"wandb sync {run}/wandb/(offline-)?run-\S+-r", command.printed)


def test_what_a_run_is_found_by():
    cfg = config_class("simcse")(
        trainer=TrainerConfig(max_steps=1), seed=3, tracking=TrackingConfig(tags=["arm:plain", "x"])
    )
    workspace = Workspace(Path("runs/r"), "simcse", "mini")
    assert describe(cfg, workspace) == {
        "project": "simcse",
        "family": "sentences",
        "arm": "plain",
        "config": "mini",
        "seed": "3",
    }
    plain = ExperimentConfig(trainer=TrainerConfig(max_steps=1))
    assert describe(plain, workspace).keys() == {"project", "config", "seed"}


def test_labels_reach_the_logger(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg = ExperimentConfig(
        trainer=TrainerConfig(max_steps=1),
        tracking=TrackingConfig(wandb="offline", tags=["arm:plain", "x"]),
    )
    logger = tracking.wandb_logger(cfg, Workspace(tmp_path / "r", "simcse", "mini"))
    assert logger is not None
    sent = logger._wandb_init
    assert (sent["id"], sent["group"], sent["job_type"]) == ("r", "simcse-mini", "train")
    assert sent["tags"] == ["project:simcse", "arm:plain", "config:mini", "seed:0", "x"]
