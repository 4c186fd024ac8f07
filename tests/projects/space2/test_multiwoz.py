"""MultiWOZ 2.1 as TripPy reads it: states, acts, what the system told, labels of gates, the
recipe's options.
"""

import json

import pytest

from common.config import UserError
from projects.space2.dialogs.multiwoz import SLOTS, multiwoz, told_values
from projects.space2.dialogs.tasks import Example, read_examples
from projects.space2.dialogs.turns import Turn
from projects.space2.finetune import label_maps, task_examples
from projects.space2.heads import GATES
from projects.space2.rows import state_labels
from projects.space2.scoring import score, updated
from tests.projects.space2.conftest import config, network_of

TRAIN = {
    "semi": {"leaveAt": "", "destination": "ely", "day": "not mentioned"},
    "book": {"booked": [], "people": ""},
}
LOG = [
    {
        "text": "a train to Ely, and what is the id?",
        "dialog_act": {"Train-Inform": [["Dest", "ely"]], "Train-Request": [["Id", "?"]]},
    },
    {
        "text": "One leaves at 10:15, or at 11:15.",
        "metadata": {"train": TRAIN, "hospital": {"semi": {"department": "eye clinic"}}},
        "dialog_act": {
            "Train-Inform": [["Leave", "10:15"], ["Leave", "11:15"]],
            "Train-Request": [["Arrive", "?"]],
            "Train-NoOffer": [["Day", "monday"]],
        },
    },
    {"text": "yes"},
    {
        "text": "Booked for Friday.",
        "metadata": {
            "train": {
                "semi": {"leaveAt": "10:15", "destination": "ely"},
                "book": {"people": "2", "booked": [{"people": "3"}]},
            }
        },
        "dialog_act": {"Booking-Book": [["Day", "friday"]]},
    },
    {"text": "a cheap room"},
    {
        "text": "Fine.",
        "metadata": {"hotel": {"semi": {"pricerange": "cheap"}, "book": {"day": "friday"}}},
        "dialog_act": {"Hotel-Recommend": [["Price", "cheap"]]},
    },
]


def folder_of(path, log=LOG, acts=None):
    (path / "train_dials.json").write_text(json.dumps({"A.json": {"log": log}}))
    if acts is not None:
        (path / "dialogue_acts.json").write_text(json.dumps(acts))
    return path


def test_what_the_system_told_has_the_names_of_states(tmp_path):
    """Acts' slots are mapped, only telling acts count, the first value of several, bookings for
    every domain.
    """
    examples = read_examples("dst", "folder", "train", folder=folder_of(tmp_path))
    assert [dict(e.told) for e in examples[:2]] == [{}, {"train-leaveAt": "10:15"}]
    assert dict(examples[2].told) == {"hotel-book_day": "friday", "restaurant-book_day": "friday"}
    said = {"hotel": {"inform": {s: [{"value": "x"}] for s in ("pricerange", "book_people")}}}
    assert set(told_values(said, SLOTS)) == {"hotel-pricerange", "hotel-book_people"}
    assert len(SLOTS) == 30


@pytest.mark.parametrize(
    ("act", "slot"),
    [
        ("Taxi-Depart", "taxi-departure"),
        ("Taxi-Arrive", "taxi-arriveBy"),
        ("Train-Leave", "train-leaveAt"),
        ("Train-People", "train-book_people"),
        ("Train-Day", "train-day"),
        ("Restaurant-Price", "restaurant-pricerange"),
        ("Restaurant-Time", "restaurant-book_time"),
        ("Hotel-Stay", "hotel-book_stay"),
        ("Hotel-Day", "hotel-book_day"),
        ("Attraction-Area", "attraction-area"),
    ],
)
def test_every_act_slot_meets_its_state_slot(act, slot, tmp_path):
    """TripPy's names of both sides."""
    domain, name = act.split("-")
    log = [LOG[0], {**LOG[1], "dialog_act": {f"{domain}-Select": [[name, "x"]]}}, LOG[2]]
    *_, last = read_examples("dst", "folder", "train", folder=folder_of(tmp_path, log))
    assert dict(last.told) == {slot: "x"}


def test_states_take_what_was_booked_and_scored_slots_alone(tmp_path):
    """A booking in fact stands for the one asked for; slots beyond the 30 are not tracked."""
    examples = read_examples("dst", "folder", "train", folder=folder_of(tmp_path))
    assert dict(examples[0].state) == {"train-destination": "ely"}
    assert dict(examples[1].state) == {
        "train-destination": "ely",
        "train-leaveAt": "10:15",
        "train-book_people": "3",
    }
    assert examples[2].before == examples[1].state


def test_acts_of_users_and_of_the_acts_file_enter_the_trees(tmp_path):
    """Requests stand in a user's tree; a file of acts beside the dialogues counts in place of the
    log's.
    """
    first = multiwoz(folder_of(tmp_path) / "train_dials.json").dialogs[0].turns
    ely = {"inform": {"destination": [{"value": "ely", "span": None}]}, "request": {"id": []}}
    assert first[0].frame["train"] == ely
    assert first[0].frame["hospital"] == {
        "inform": {"department": [{"value": "eye clinic", "span": None}]}
    }
    acts = {"A": {"1": {"Train-Select": [["Arrive", "12:00"]]}, "2": "No Annotation"}}
    read = folder_of(tmp_path, acts=acts)
    assert [dict(e.told) for e in read_examples("dst", "folder", "train", folder=read)] == [
        {},
        {"train-arriveBy": "12:00"},
        {},
    ]
    (tmp_path / "train_dials.json").write_text(
        '{"A.json": {"log": [{"text": "x"}, {"text": "y", "metadata": []}]}, "B": []}'
    )
    with pytest.raises(UserError, match="layout of MultiWOZ"):
        multiwoz(tmp_path / "train_dials.json")


def test_answers_may_hide_what_they_told(tmp_path):
    """`task.delexicalize`: told values of tracked slots alone, only in the system's texts."""
    examples = read_examples(
        "dst", "folder", "train", folder=folder_of(tmp_path), delexicalize=True
    )
    texts = [t.text for t in examples[2].turns]
    assert texts[1] == "One leaves at [UNK] [UNK] [UNK], or at 11:15."
    assert texts[3] == "Booked for Friday."  # a booking names no tracked slot
    assert texts[0] == LOG[0]["text"]
    with pytest.raises(UserError, match="source=folder"):
        config("task.kind=dst", "task.delexicalize=true")
    with pytest.raises(UserError, match="kind=dst"):
        config("task.label_maps=x.json")


def test_a_told_value_is_informed_only_if_it_is_the_state_s():
    """The gate `inform` needs the value itself, or a variant of it."""
    texts = network_of().texts
    slots = ["hotel-area", "hotel-name"]
    example = Example(
        (Turn(True, "yes please"),),
        state={"hotel-name": "guest house"},
        told={"hotel-name": "b and b"},
    )
    row = texts.row(texts.utterances(example.turns), True)
    maps = {"guest house": ["b and b"]}
    gates = [GATES[state_labels(example, row, texts, slots, m)["gate"][1]] for m in (None, maps)]
    assert gates == ["none", "inform"]
    other = Example((Turn(True, "a b and b please"),), state={"hotel-name": "guest house"})
    row = texts.row(texts.utterances(other.turns), True)
    gates = [GATES[state_labels(other, row, texts, slots, m)["gate"][1]] for m in (None, maps)]
    assert gates == ["none", "copy_value"]


def test_label_maps_count_in_predictions_and_in_the_metric(tmp_path):
    """Sheet, Evaluation: joint goal accuracy with TripPy's label maps, from a file of its form."""
    import torch

    from projects.space2.rows import TaskRow

    (tmp_path / "maps.json").write_text(
        json.dumps({"slots": [], "label_maps": {"guest house": ["b and b"]}})
    )
    maps = label_maps(config("task.kind=dst", f"task.label_maps={tmp_path}/maps.json"))
    pairs = [({"hotel-name": "b and b"}, {"hotel-name": "guest house"})]
    assert score("dst", pairs, {})[0] == 0
    assert score("dst", pairs, maps)[0] == 1
    texts = network_of().texts
    example = Example(
        (Turn(True, "yes"),), state={"hotel-name": "guest house"}, told={"hotel-name": "b and b"}
    )
    row = TaskRow(texts.row(texts.utterances(example.turns), True), {}, None)
    logits = {
        "gate": (
            torch.nn.functional.one_hot(torch.tensor([GATES.index("inform")]), len(GATES)).float()
        )
    }
    actual = [updated(logits, row, {}, example, texts, ["hotel-name"], m) for m in ({}, maps)]
    assert [f["hotel-name"] for f in actual] == ["b and b", "guest house"]
    (tmp_path / "bad.json").write_text('{"a": "b"}')
    with pytest.raises(UserError, match="label_maps"):
        label_maps(config("task.kind=dst", f"task.label_maps={tmp_path}/bad.json"))


def test_few_shot_sets_of_dialoglue(tmp_path):
    """Sheet, Evaluation: examples of each intent, and the benchmark's own tenth of the training
    set.
    """
    few = config("train=finetune", "task.per_intent=2")
    intents = [e.intent for e in task_examples(few, "train")]
    assert {intents.count(name) for name in set(intents)} == {2}
    assert len(set(intents)) == len(
        {e.intent for e in task_examples(config("train=finetune"), "train")}
    )
    with pytest.raises(UserError, match="per_intent"):
        task_examples(config("train=finetune", "task.per_intent=99"), "train")
    (tmp_path / "train_10.csv").write_text("text,category\nhi,greet\n")
    (tmp_path / "val.csv").write_text("text,category\nho,greet\n")
    tenth = config(
        "train=finetune",
        f"data.root={tmp_path}",
        "task.source=folder",
        "task.folder=.",
        "task.train_file=train_10.csv",
    )
    assert [task_examples(tenth, part)[0].turns[0].text for part in ("train", "dev")] == [
        "hi",
        "ho",
    ]
