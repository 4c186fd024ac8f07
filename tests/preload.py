"""What most tests load: imported once where many start, so that no test pays for the first use.

Fork servers import it for the ranks of the pool; a worker of a run whose CPU seconds are recorded
imports it before its first test, else the first project to draw a figure would pay for matplotlib.
"""

MODULES = (
    "common.engine.run",
    "common.families.sentences.module",
    "common.losses.image_text",
    "matplotlib.pyplot",
    "open_clip",
    "peft",
    "scipy.stats",
    "sklearn.linear_model",
    "torch._dynamo",
    "torch.distributed",
    "torch.nn.parallel",
    "torchvision.transforms.v2",
)
