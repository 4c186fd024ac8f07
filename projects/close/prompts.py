"""Instructions and demonstrations of the few-shot prompts, written for this repository."""

INSTRUCTIONS = {
    "captions": "Write one plain sentence that describes a photograph with both things in it.",
    "egocentric": "Say again what the sentence shows, as somebody who sees or does it now: in the first person.",
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
