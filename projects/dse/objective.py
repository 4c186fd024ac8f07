"""The student's loss: labels and the teacher's logits, a convex combination."""

from typing import Literal

from torch import Tensor, nn

from common.losses.auxiliary.distillation import mixed, squared_logit_error
from projects.dse.pair_task_losses import pair_task_loss


class Objective(nn.Module):
    """(1 - alpha) L_task + alpha 1/B sum_b ||y_b - t_b||^2.

    Source: Barkan et al. 2020, "Distilled Sentence Embedding", section 3, arXiv 1908.05161, and the
    released code (dse_trainer).

    Args:
        kind: of the task.
        alpha: in [0, 1]; 0 reads no teacher.
    """

    def __init__(
        self, kind: Literal["multiclass", "binary", "regression"], alpha: float = 0.5
    ) -> None:
        super().__init__()
        self.kind, self.alpha = kind, alpha

    def forward(
        self, logits: Tensor, labels: Tensor, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss and its terms.

        Args:
            logits: (B, C) of the student.
            labels: (B,) int64 classes, or (B, 1) float.
            teacher: (B, C) logits; of a binary task the difference of its two.

        Raises:
            ValueError: no teacher where alpha > 0, or shapes that do not fit.
        """
        task = pair_task_loss(logits, labels, self.kind)
        if self.alpha == 0:
            return {"loss": task, "task_loss": task}
        if teacher is None:
            raise ValueError("alpha > 0 needs the teacher's logits")
        distillation = squared_logit_error(logits, teacher)  # summed over classes, mean over pairs
        loss = mixed(distillation, task, self.alpha)  # the convex combination of section 3
        return {"loss": loss, "task_loss": task, "distillation_loss": distillation}
