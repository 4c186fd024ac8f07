"""XOR-Retrieve: is an answer among the first word tokens of what was retrieved?"""

from collections.abc import Callable, Sequence

BUDGETS = (2000, 5000)  # R@2kt, R@5kt
YES_NO = ("yes", "no")  # answers that no passage holds

Tokenize = Callable[[str], list[str]]


def word_tokens(text: str) -> list[str]:
    """Word tokens of the Penn treebank.

    The text counts as one sentence, so that no model is needed.

    The release splits sentences first: there a full stop inside a passage is a token of its own.
    """
    from nltk.tokenize import word_tokenize

    tokens: list[str] = word_tokenize(text, preserve_line=True)
    return tokens


def answer_within_tokens(
    passages: Sequence[str],
    answers: Sequence[str],
    budgets: Sequence[int] = BUDGETS,
    tokenize: Tokenize = word_tokens,
) -> dict[int, bool] | None:
    """Whether an answer string lies within the first tokens of the concatenated passages.

    Source: Asai et al. 2021, "XOR QA", section 4.1 (R@2kt, R@5kt), arXiv 2010.11856.

    Args:
        passages: of a question, best first.
        answers: accepted ones.
        budgets: numbers of tokens.
        tokenize: text -> word tokens.

    Returns:
        Budget -> hit; None for a question with no answer but yes, no or blank ones, which does not
        count.

    >>> answer_within_tokens(["a b", "c d"], ["c"], (2, 3), str.split)
    {2: False, 3: True}
    >>> answer_within_tokens(["a"], ["yes"]) is None
    True
    """
    spans = [answer for answer in answers if answer.strip() and answer not in YES_NO]
    if not spans:
        return None
    tokens: list[str] = []
    for passage in passages:
        if len(tokens) >= max(budgets):
            break
        tokens += tokenize(passage)
    texts = {budget: " ".join(tokens[:budget]) for budget in budgets}
    return {budget: any(span in text for span in spans) for budget, text in texts.items()}
