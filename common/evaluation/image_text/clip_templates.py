"""CLIP's sentences of each image set (Radford et al. 2021, arXiv 2103.00020, released prompts)."""

from collections.abc import Sequence

from common.data.image.benchmarks import IMAGE_SETS, judged_as_imagenet
from common.evaluation.image_text.zeroshot import CIFAR_TEMPLATES, OPENAI_TEMPLATES

_A_THE = ("a", "the")
_RENDITIONS = (
    "a photo of {article} {{}}.",
    "a painting of {article} {{}}.",
    "{article} plastic {{}}.",
    "a sculpture of {article} {{}}.",
    "a sketch of {article} {{}}.",
    "a tattoo of {article} {{}}.",
    "{article} toy {{}}.",
    "a rendition of {article} {{}}.",
    "{article} embroidered {{}}.",
    "{article} cartoon {{}}.",
    "{article} {{}} in a video game.",
    "{article} plushie {{}}.",
    "{article} origami {{}}.",
    "art of {article} {{}}.",
    "graffiti of {article} {{}}.",
    "a drawing of {article} {{}}.",
    "a doodle of {article} {{}}.",
)
_FROM_ABOVE = (
    "satellite imagery",
    "aerial imagery",
    "satellite photo",
    "aerial photo",
    "satellite view",
    "aerial view",
)
_SHOWING = ("a photo", "a video", "a example", "a demonstration")
_DOING = ("", "using ", "doing ", "during ", "performing ", "practicing ")
_OF_ITSELF = ("", "a ", "the ")

# sets of several sentences; the others have one, which is the set's own
_LISTS: dict[str, tuple[str, ...]] = {
    "cifar10": CIFAR_TEMPLATES,
    "cifar100": CIFAR_TEMPLATES,
    "cars": (
        *(f"a photo of {article} {{}}." for article in ("a", "the", "my")),
        "i love my {}!",
        *(f"a photo of my {state} {{}}." for state in ("dirty", "clean", "new", "old")),
    ),
    "aircraft": tuple(f"a photo of {article} {{}}, a type of aircraft." for article in _A_THE),
    "dtd": tuple(
        f"a photo of {article} {{}} {what}."
        for article in _A_THE
        for what in ("texture", "pattern", "thing", "object")
    ),
    "caltech101": tuple(text.format(article=article) for article in _A_THE for text in _RENDITIONS),
    "stl10": tuple(f"a photo of {article} {{}}." for article in _A_THE),
    "eurosat": tuple(f"a centered satellite photo of {start}{{}}." for start in _OF_ITSELF),
    "resisc45": tuple(f"{kind} of {start}{{}}." for start in _OF_ITSELF for kind in _FROM_ABOVE),
    "country211": (
        "a photo i took in {}.",
        "a photo i took while visiting {}.",
        "a photo from my home country of {}.",
        "a photo from my visit to {}.",
        "a photo showing the country of {}.",
    ),
    "ucf101": tuple(
        f"{showing} of {article} person {doing}{{}}."
        for doing in _DOING
        for article in _A_THE
        for showing in _SHOWING
    ),
}


def clip_templates(name: str) -> Sequence[str]:
    """All sentences of a set of `IMAGE_SETS`: 80 of ImageNet, 48 of UCF101, one of pets, ...

    >>> [len(clip_templates(name)) for name in ("imagenet_v2", "ucf101", "cars", "pets")]
    [80, 48, 8, 1]
    """
    if judged_as_imagenet(name):
        return OPENAI_TEMPLATES
    return _LISTS.get(name, IMAGE_SETS[name].templates)
