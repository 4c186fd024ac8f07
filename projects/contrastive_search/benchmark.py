"""Our contrastive search against that of transformers, which had it up to version 4.

Same model, prompts, k, alpha and budget; one thread; rounds in turns; tokens per CPU second at
equal output. The peer runs in a process of its own with the packages of a folder, for instance of

    pip install --target /tmp/peer --no-deps transformers==4.49.0 tokenizers==0.21.0
    huggingface-hub==0.29.3

    python -m projects.contrastive_search.benchmark --peer /tmp/peer [--quick]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.measure import results_folder
from common.config import ROOT
from common.files import write_text

OUT = results_folder(quick=False) / "contrastive_search.csv"
K, ALPHA, WIDTH = 5, 0.6, 32
MODEL = str(ROOT / "data" / "models" / "causal-lm")


def peer() -> None:
    """Answer requests on standard input: rows and budget -> new tokens and CPU seconds."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, torch_dtype=torch.float32)
    model.eval()
    for line in sys.stdin:
        request = json.loads(line)
        ids, mask = (torch.tensor(request[name]) for name in ("ids", "mask"))
        start = time.process_time()
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                penalty_alpha=ALPHA,
                top_k=K,
                do_sample=False,
                max_new_tokens=request["budget"],
                eos_token_id=None,
                pad_token_id=1,
            )
        seconds = time.process_time() - start
        found = {
            "tokens": out[:, ids.shape[1] :].tolist(),
            "seconds": seconds,
            "version": transformers.__version__,
        }
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Measure, print, write one row for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", required=True, help="folder with transformers 4")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    arguments = parser.parse_args()

    import torch

    from common.data.text.books import load_books
    from common.decoding.contrastive_search import contrastive_search
    from common.decoding.language_model import LanguageModel
    from common.engine.workspace import cpu_name

    torch.set_num_threads(1)
    lm = LanguageModel.from_pretrained(MODEL, "cpu")
    texts = [" ".join(c.sentences[:20]) for c in load_books(None, "test")]
    prompts = [ids[:WIDTH] for t in texts if len(ids := lm.token_ids(t)) >= WIDTH]
    rounds, budget = (2, 24) if arguments.quick else (3, 64)
    other: Any = subprocess.Popen(
        [sys.executable, "-m", "projects.contrastive_search.benchmark", "--as-peer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": arguments.peer},
    )
    lines = ["batch,ours_tokens_per_s,peer_tokens_per_s,ratio,equal_tokens,peer,processor"]
    for batch in (1, 8):
        ids = torch.tensor(prompts[:batch])
        request = {"ids": ids.tolist(), "mask": torch.ones_like(ids).tolist(), "budget": budget}
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        for turn in range(rounds + 1):
            start = time.process_time()
            new = contrastive_search(
                lm.model, ids, max_new_tokens=budget, candidates=K, penalty=ALPHA
            )
            own = time.process_time() - start
            other.stdin.write(json.dumps(request) + "\n")
            other.stdin.flush()
            reply = json.loads(other.stdout.readline())
            if turn:  # the first one warms up
                times["ours"].append(own)
                times["peer"].append(reply["seconds"])
        equal = float((new == torch.tensor(reply["tokens"])).double().mean())
        speed = {name: batch * budget / statistics.median(own) for name, own in times.items()}
        ratio = speed["ours"] / speed["peer"]
        lines.append(
            f"{batch},{speed['ours']:.0f},{speed['peer']:.0f},{ratio:.2f},{equal:.3f},"
            f"transformers {reply['version']},{cpu_name()}"
        )
        print(lines[-1], flush=True)
    other.stdin.close()
    other.wait()
    if not arguments.quick:
        write_text(OUT, "\n".join(lines) + "\n")


if __name__ == "__main__":
    peer() if sys.argv[1:] == ["--as-peer"] else main()
