"""Made-up adverts: occupations whose titles share no word, and are tied by their skills alone."""

from itertools import product

from common.data.samplers import sample_rng
from common.data.synthetic_words import SYLLABLES
from projects.vacancysbert.esco import Parts
from projects.vacancysbert.normalisation import TitleRow

VARIANTS = 4  # titles of an occupation; the first is the standard one
CORE, SHOWN, NOISE = 8, 5, 3  # skills of an occupation; of an advert; foreign ones of an advert
ADS = 10  # training adverts under each title
_STREAM = 73


def synthetic_parts(num_occupations: int, seed: int) -> Parts:
    """Training adverts, test rows, development rows and candidates, see `esco_parts`.

    Args:
        num_occupations: 1 to 124, for which there are words.
        seed: of everything.

    Raises:
        ValueError: too many occupations.
    """
    rng = sample_rng(seed, 0, 0, _STREAM)
    made = ["".join(parts) for parts in product(SYLLABLES, repeat=3)]
    vocabulary = [made[i] for i in rng.permutation(len(made))]
    size = 2 * VARIANTS * num_occupations
    if size >= len(vocabulary):
        raise ValueError(f"at most {(len(made) - 1) // (2 * VARIANTS)} synthetic occupations")
    titles = [f"{a} {b}" for a, b in zip(vocabulary[:size:2], vocabulary[1:size:2], strict=True)]
    words = vocabulary[size:]  # titles and skills share no word
    skills = [
        " ".join(words[int(i)] for i in rng.integers(len(words), size=2))
        for _ in range(max(3 * num_occupations, CORE + NOISE))
    ]
    ads, rows = [], {"test": list[TitleRow](), "dev": list[TitleRow]()}
    for o in range(num_occupations):
        variants = titles[VARIANTS * o : VARIANTS * (o + 1)]
        core = rng.permutation(len(skills))[:CORE]

        def draw(core=core) -> tuple[str, ...]:  # type: ignore[no-untyped-def]
            picked = [*rng.permutation(core)[:SHOWN], *rng.integers(len(skills), size=NOISE)]
            return tuple(dict.fromkeys(skills[int(i)] for i in picked))

        for v, title in enumerate(variants):
            ads += [(f"{o}-{v}-{n}", title, draw()) for n in range(ADS)]
            if v:  # a fresh advert, the same title: its skills were not seen together
                rows["test" if v % 2 else "dev"].append(TitleRow(title, variants[0], draw()))
    return ads, rows["test"], rows["dev"], titles[::VARIANTS]
