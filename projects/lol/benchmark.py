"""LOL's three passes with their caches side by side, against three greedy generations of transformers.

Same model, prompts and budget; one thread; rounds in turns; CPU seconds. The peer writes with
original, amateur and instructed original one after the other, which is the least that three models'
texts cost without a contrast; LOL computes early exits, two contrasts and the choice of the layer
on top. A second column reads everything again at every step, without caches.

    python -m projects.lol.benchmark [--quick]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import results_folder
from common.files import write_text

OUT = results_folder(quick=False) / "lol.csv"
MODEL = "bundled:causal-lm"
PROMPT, INSTRUCTION = 48, 24  # tokens of a prompt, and of the instruction before it


def main() -> None:
    """Measure, print, write one row for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, nothing is written")
    quick = parser.parse_args().quick

    import torch

    from common.data.text.books import load_books
    from common.decoding.language_model import LanguageModel
    from common.engine.workspace import cpu_name
    from projects.lol.early_exit import at_layer, exit_logits, furthest_layer
    from projects.lol.objective import Logits, Weights, lol_scores
    from projects.lol.tracks import Reading, Track, read, write

    torch.set_num_threads(1)
    lm, amateur = (LanguageModel.from_pretrained(MODEL, "cpu") for _ in range(2))
    texts = [" ".join(c.sentences[:20]) for c in load_books(None, "test")]
    prompts = [ids[:PROMPT] for t in texts if len(ids := lm.token_ids(t)) >= PROMPT]
    weights, layers, budget = Weights(), (2, 3), 16 if quick else 48

    def scores(readings: list[Reading]) -> Any:
        first, second, third = readings
        exits = torch.stack([exit_logits(lm.model, first.states[i], i) for i in layers])
        chosen, _ = furthest_layer(first.logits, exits)
        states = at_layer(torch.stack([second.states[i] for i in layers]), chosen)
        other = exit_logits(amateur.model, states, layers[0])
        logits = Logits(first.logits, second.logits, at_layer(exits, chosen), other, third.logits)
        return lol_scores(logits, weights)[:, -1]

    lines = ["batch,lol_s,three_generations_s,ratio,without_caches_s,processor"]
    for batch in (1, 8):
        rows = prompts[:batch]
        longer = [rows[0][:INSTRUCTION] + row for row in rows]
        tracks = [
            Track(lm.model, rows, layers),
            Track(amateur.model, rows, layers),
            Track(lm.model, longer),
        ]

        def ours(tracks: list[Any] = tracks) -> None:
            write(tracks, lambda readings, _: scores(readings).argmax(-1), budget, pad=0)

        def anew(tracks: list[Any] = tracks, batch: int = batch) -> None:
            new: list[list[int]] = [[] for _ in range(batch)]
            for _ in range(budget):
                token = scores(read(tracks, [[*own, 0] for own in new], 0)).argmax(-1).tolist()
                new = [[*own, t] for own, t in zip(new, token, strict=True)]

        def peer(rows: list[Any] = rows, longer: list[Any] = longer) -> None:
            for model, ids in ((lm.model, rows), (amateur.model, rows), (lm.model, longer)):
                given = torch.tensor(ids)
                model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    do_sample=False,
                    max_new_tokens=budget,
                    min_new_tokens=budget,
                    pad_token_id=0,
                )

        ways: dict[str, Callable[[], None]] = {"ours": ours, "peer": peer, "anew": anew}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(2 if quick else 4):
            for name, way in ways.items():
                start = time.process_time()
                way()
                if turn:  # the first one warms up
                    times[name].append(time.process_time() - start)
        own = {name: statistics.median(found) for name, found in times.items()}
        lines.append(
            f"{batch},{own['ours']:.3f},{own['peer']:.3f},{own['ours'] / own['peer']:.2f},"
            f"{own['anew']:.3f},{cpu_name()}"
        )
        print(lines[-1], flush=True)
    if not quick:
        write_text(OUT, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
