"""Final answers of chains of thought: StrategyQA and GSM8K, parsed as in DoLa's runners."""

import re

_NUMBER = re.compile(r"-?\d+\.?\d*")
_GOLD = re.compile(r"#### (-?[0-9.,]+)")


def yes_or_no(text: str) -> bool:
    """StrategyQA: what follows the first "answer is"; without it, "no" anywhere means no.

    Anything but yes or no after it counts as no.

    >>> yes_or_no("It floats. So the answer is no."), yes_or_no("Sure.")
    (False, True)
    """
    text = text.lower()
    _, marker, rest = text.partition("answer is")
    if not marker:
        return "no" not in text
    return rest.partition(".")[0].strip() == "yes"


def number(text: str) -> str | None:
    """GSM8K: the first number behind the first "the answer is", else the last one of the text.

    None without.

    >>> number("3 and 4 make 7. The answer is $1,007."), number("3 and 4")
    ('1007', '4')
    """
    _, marker, rest = text.lower().partition("the answer is")
    rest = rest.partition("the answer is")[0] if marker else text
    numbers = _NUMBER.findall(rest.replace(",", ""))
    if not numbers:
        return None
    chosen: str = numbers[0] if marker else numbers[-1]
    return chosen.removesuffix(".")


def gold_number(answer: str) -> str | None:
    """GSM8K's reference: what stands behind ####; None if nothing does.

    >>> gold_number("3 + 4 = 7 #### 1,007")
    '1007'
    """
    match = _GOLD.search(answer)
    return match[1].strip().replace(",", "") if match else None
