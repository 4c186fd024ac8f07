"""Attention decoder and beam search."""

import itertools

import torch

from projects.coconut.speech.attention_decoder import AttentionDecoder, beam_search, length_penalty

SOS, EOS, PAD = 2, 3, 0


def decoder():
    torch.manual_seed(0)
    return AttentionDecoder(8, 16, 2, 2, dropout=0.0).eval()


def test_decoder_is_causal_and_reads_real_states_only():
    torch.manual_seed(1)
    model, states = decoder(), torch.randn(2, 5, 16)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    tokens = torch.tensor([[2, 4, 5, 6], [2, 4, 5, 6]])
    with torch.no_grad():
        full = model(tokens, states, mask)
        changed = tokens.clone()
        changed[:, 3] = 7
        torch.testing.assert_close(model(changed, states, mask)[:, :3], full[:, :3])
        noisy = states.clone()
        noisy[1, 3:] = 100
        torch.testing.assert_close(model(tokens, noisy, mask)[1], full[1])
        noisy[1, 0] = 3
        assert not torch.allclose(model(tokens, noisy, mask)[1], full[1], atol=1e-3)


def table(seed, vocab=6):
    """A made-up language model: log-probabilities depend on row and prefix."""

    def log_probs(tokens, rows):
        out = []
        for prefix, row in zip(tokens.tolist(), rows.tolist(), strict=True):
            number = hash((seed, row, tuple(prefix))) % 2**31
            generator = torch.Generator().manual_seed(number)
            logits = 3 * torch.randn(vocab, generator=generator)
            logits[PAD] = -torch.inf
            out.append(logits.log_softmax(0))
        return torch.stack(out)

    return log_probs


def score(log_probs, row, tokens, power):
    total = 0.0
    for i in range(1, len(tokens)):
        step = log_probs(torch.tensor([tokens[:i]]), torch.tensor([row]))
        total += float(step[0, tokens[i]])
    return total / float(length_penalty(torch.tensor(len(tokens) - 1), power))


def test_wide_beam_finds_the_best_of_all_sequences():
    log_probs, length = table(0), 3
    actual, scores = beam_search(
        log_probs, 2, sos=SOS, eos=EOS, pad=PAD, beam_size=200, max_length=length, power=0.6
    )
    for row in range(2):
        candidates = []
        for n in range(1, length + 1):
            for middle in itertools.product([1, 2, 4, 5], repeat=n - 1):
                candidates.append([SOS, *middle, EOS])
        candidates += [[SOS, *m] for m in itertools.product([1, 2, 4, 5], repeat=length)]
        best = max(candidates, key=lambda t: score(log_probs, row, t, 0.6))
        assert [t for t in actual[row].tolist() if t != PAD] == best
        assert abs(float(scores[row]) - score(log_probs, row, best, 0.6)) < 1e-4


def test_one_beam_is_greedy():
    log_probs = table(1)
    actual, _ = beam_search(log_probs, 3, sos=SOS, eos=EOS, pad=PAD, beam_size=1, max_length=5)
    for row in range(3):
        tokens = [SOS]
        while tokens[-1] != EOS and len(tokens) < 6:
            tokens.append(int(log_probs(torch.tensor([tokens]), torch.tensor([row]))[0].argmax()))
        assert [t for t in actual[row].tolist() if t != PAD] == tokens


def test_rows_are_searched_independently():
    log_probs = table(2)
    together, _ = beam_search(log_probs, 4, sos=SOS, eos=EOS, pad=PAD, beam_size=3, max_length=4)
    alone, _ = beam_search(
        lambda tokens, rows: log_probs(tokens, rows + 2),
        1,
        sos=SOS,
        eos=EOS,
        pad=PAD,
        beam_size=3,
        max_length=4,
    )
    own = [t for t in together[2].tolist() if t != PAD]
    assert [t for t in alone[0].tolist() if t != PAD] == own
