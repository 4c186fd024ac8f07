"""All projects, and one of each family for what takes too long to run for all before a commit."""

from common.registry import list_projects

PROJECTS = list(list_projects())

# of each family the project that does most of its own there
FAMILIES = {
    "sentences": "debcse",  # mines before it trains, ranks wait for each other
    "images": "dcl",  # queue and support set of all ranks
    "image_text": "laclip",
    "classification": "peft_augmentation",
    "retrieval": "nv_embed",  # batches are made for all ranks together
    "speech": "coconut",  # several stages, replay
    "lidar": "trend",
}
