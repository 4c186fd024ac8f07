"""Instructions and demonstrations of the few-shot prompts (ours), and how many fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.config import UserError

INSTRUCTIONS = {
    "captions": "Write one plain sentence that describes a photograph with both things in it.",
    "egocentric": (
        "Say again what the sentence shows, as somebody who sees or does it now: in the first"
        " person."
    ),
    "character": "Say again what the sentence shows, as it would stand in a story about {name}.",
}
CAPTIONS = (
    {"keywords": ["dog", "river"], "caption": "A wet dog shakes itself at the edge of a river."},
    {"keywords": ["woman", "umbrella"], "caption": "A woman holds a red umbrella at a bus stop."},
    {
        "keywords": ["train", "bridge"],
        "caption": "A goods train crosses an iron bridge in the evening.",
    },
    {"keywords": ["cup", "desk"], "caption": "A cup of coffee stands beside a keyboard on a desk."},
    {"keywords": ["boy", "ball"], "caption": "A small boy kicks a ball against a wall."},
    {"keywords": ["horse", "fence"], "caption": "Two horses look over a wooden fence."},
    {
        "keywords": ["boat", "island"],
        "caption": "A white boat lies at anchor before a green island.",
    },
    {"keywords": ["bread", "knife"], "caption": "A loaf of bread and a knife lie on a board."},
    {"keywords": ["cat", "window"], "caption": "A grey cat sleeps on the sill of a sunny window."},
    {"keywords": ["man", "ladder"], "caption": "A man on a ladder picks apples from a tree."},
    {"keywords": ["street", "snow"], "caption": "An empty street is covered with fresh snow."},
    {"keywords": ["clock", "tower"], "caption": "A large clock hangs on a brick tower."},
    {
        "keywords": ["bicycle", "basket"],
        "caption": "A bicycle with flowers in its basket leans on a lamp post.",
    },
    {"keywords": ["plane", "cloud"], "caption": "A small plane flies under a dark cloud."},
    {
        "keywords": ["kitchen", "lamp"],
        "caption": "Three lamps hang over the table of a narrow kitchen.",
    },
    {"keywords": ["girl", "kite"], "caption": "A girl in a yellow coat flies a kite on the beach."},
    {"keywords": ["pizza", "plate"], "caption": "Half a pizza is left on a blue plate."},
    {"keywords": ["bird", "branch"], "caption": "A brown bird sits on a bare branch."},
    {"keywords": ["truck", "field"], "caption": "An old truck is parked in a field of wheat."},
    {"keywords": ["bench", "park"], "caption": "Nobody sits on the long bench in the park."},
)
FIRST_PERSON = (
    {"source": "A man cuts bread on a table.", "target": "I cut bread on my table."},
    {
        "source": "A woman rides a bicycle through town.",
        "target": "I ride my bicycle through town.",
    },
    {"source": "A dog runs after a ball.", "target": "My dog runs after the ball that I threw."},
    {"source": "People wait at a bus stop.", "target": "I wait with others at the bus stop."},
    {"source": "A boat lies on the beach.", "target": "I stand before a boat on the beach."},
    {"source": "A child holds a kite.", "target": "I hold my kite in both hands."},
    {"source": "A cup of tea stands by a window.", "target": "I put my tea beside the window."},
    {"source": "Two cats sleep on a sofa.", "target": "I see my two cats asleep on the sofa."},
)


def shown(shot: Mapping[str, Any]) -> str:
    """A demonstration as it stands in a prompt."""
    if "keywords" in shot:
        return f"{', '.join(shot['keywords'])}:\n{shot['caption']}"
    return f"{shot['source']}\n-> {shot['target']}"


def shortened(prompt: str, shots: Sequence[str], fits: Callable[[str], bool]) -> tuple[str, int]:
    r"""A prompt without its first demonstrations, as far as it does not fit the model.

    Args:
        prompt: parts with blank lines between them.
        shots: its demonstrations, as `shown`.
        fits: whether a text is short enough.

    Returns:
        The prompt and the number of demonstrations that are left.

    Raises:
        UserError: it does not fit even without any.

    >>> shortened("Write.\n\na\n\nb\n\nc:", ["a", "b"], lambda text: len(text) < 14)
    ('Write.\n\nb\n\nc:', 1)
    """
    left = list(shots)
    while not fits(prompt):
        if not left:
            raise UserError(
                "a prompt of generate.* is too long for the model even without demonstrations:"
                " lower generate.max_new_tokens, shorten generate.instruction and generate.stories,"
                " or take another model"
            )
        prompt = prompt.replace(left.pop(0) + "\n\n", "", 1)
    return prompt, len(left)
