"""What most tests load, imported once by the fork servers of the pools for all their ranks."""

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
