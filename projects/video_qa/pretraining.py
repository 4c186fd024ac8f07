"""Question prediction: the roles of question and answer change, and no further label is used."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from common.config import UserError
from common.data.samplers import sample_rng
from projects.video_qa.clips.batches import Choice
from projects.video_qa.clips.clips import Clip, Question

DISTRACTOR_STREAM = 63


class QuestionPrediction:
    """Which of A questions belongs to a clip and an answer: the true one, or one of other QA pairs.

    Source: Kim et al. 2021, arXiv 2009.08043 (self-supervised pre-training); where wrong questions
    come from is not confirmed.

    Args:
        questions: of the training part, with their right answers.
        clips: by name; their shows decide what is near.
        num_candidates: A.
        near: questions of the same "clip" first, then of the same "show", then any; or from the
            later ones on.
        answer: whether the right answer is shown ("correct") or the clip alone ("none").
        seed: of the draws, which are new in every epoch.

    Raises:
        UserError: a question without an answer, or fewer different questions than candidates.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        clips: Mapping[str, Clip],
        num_candidates: int = 5,
        near: Literal["clip", "show", "any"] = "clip",
        answer: Literal["correct", "none"] = "correct",
        seed: int = 0,
    ) -> None:
        self.questions, self.num_candidates, self.answer, self.seed = (
            list(questions),
            num_candidates,
            answer,
            seed,
        )
        if any(q.answer is None for q in questions):
            raise UserError("question prediction needs training questions with their answers")
        if len({q.text for q in questions}) < num_candidates:
            raise UserError(
                f"question prediction needs {num_candidates} different questions: give more data,"
                " or a lower pretrain.candidates"
            )
        by_clip, by_show = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
        self.shows = [clips[q.clip].show for q in questions]
        for i, q in enumerate(questions):
            by_clip[q.clip].append(i)
            by_show[self.shows[i]].append(i)
        self.by_clip, self.by_show, self.near = by_clip, by_show, near

    def __len__(self) -> int:
        return len(self.questions)

    def __call__(self, index: int, epoch: int) -> Choice:
        """Candidates of an access; the true one stands at a uniformly drawn place."""
        rng = sample_rng(self.seed, epoch, index, DISTRACTOR_STREAM)
        true = self.questions[index]
        every = range(len(self.questions))
        rings = {
            "clip": self.by_clip[true.clip],
            "show": self.by_show[self.shows[index]],
            "any": every,
        }
        wrong: list[str] = []
        for name in ("clip", "show", "any")[("clip", "show", "any").index(self.near) :]:
            ring = rings[name]
            for place in rng.permutation(len(ring)) if len(wrong) < self.num_candidates - 1 else ():
                other = self.questions[ring[int(place)]]
                if other.text != true.text and other.text not in wrong:
                    wrong.append(other.text)
                if len(wrong) == self.num_candidates - 1:
                    break
        label = int(rng.integers(self.num_candidates))
        texts = [*wrong[:label], true.text, *wrong[label:]]
        assert true.answer is not None
        answer = true.candidates[true.answer] if self.answer == "correct" else ""
        return Choice(true.clip, tuple((text, answer) for text in texts), label)
