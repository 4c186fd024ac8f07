"""The sets that a config can name, opened in their official layouts."""

from pathlib import Path
from typing import Literal

from common.config import UserError
from common.data.lookup import bundled, data_root, require
from common.engine.experiment import Requirement
from projects.trend.config import Config, Source
from projects.trend.scans.kitti import (
    RAW_SOURCE,
    SEMANTIC_SOURCE,
    kitti_raw,
    packed_clip,
    semantic_kitti,
)
from projects.trend.scans.nuscenes import SOURCE as NUSCENES_SOURCE
from projects.trend.scans.nuscenes import nuscenes
from projects.trend.scans.once import ONCE_SOURCE, WAYMO_SOURCE, once, waymo
from projects.trend.scans.sequences import LidarSet, read_npz_sequences
from projects.trend.scans.simulator import Simulator

LidarPart = Literal["train", "test", "dev", "labelled"]
CLIP = "lidar-kitti/drive0005.npz"
# scans of the bundled drive: 110 for training, a gap of 14, 30 for test; dev lies in training
CLIP_PARTS: dict[str, tuple[int, int]] = {
    "train": (0, 110),
    "labelled": (0, 110),
    "test": (124, 154),
    "dev": (80, 110),
}
CLIP_TRAIN_BESIDE_DEV = (0, 80)
STRIDE: dict[str, int] = {"kitti_clip": 5, "kitti": 5, "semantic_kitti": 5, "waymo": 5}  # 10 Hz
FOLDERS: dict[str, str] = {
    "kitti": "KITTI_raw",
    "semantic_kitti": "SemanticKITTI/dataset",
    "nuscenes": "nuscenes",
    "once": "once",
    "waymo": "waymo",
    "npz": "lidar_sequences",
}
ORIGINS: dict[str, str] = {
    "kitti": RAW_SOURCE,
    "semantic_kitti": SEMANTIC_SOURCE,
    "nuscenes": NUSCENES_SOURCE,
    "once": ONCE_SOURCE,
    "waymo": WAYMO_SOURCE,
    "npz": "your own sequences",
}
SAMPLES: dict[str, int] = {  # frames of the official training parts
    "once": 100_000,
    "nuscenes": 34_149,
    "waymo": 158_081,
    "semantic_kitti": 19_130,
    "kitti": 40_000,
}
SEMANTIC_TRAIN = tuple(f"{i:02d}" for i in (0, 1, 2, 3, 4, 5, 6, 7, 9, 10))
WITH_DEV: tuple[Source, ...] = ("simulated", "kitti_clip", "npz", "kitti")
TEST_SEED, DEV_SEED, TRAIN_SEED, LABEL_SEED = 1, 2, 1_000, 500_000


def simulated_frames(cfg: Config) -> int:
    """Frames of a simulated drive."""
    return 1 + max(cfg.eval.horizon, cfg.frames_ahead)


def simulator(cfg: Config) -> Simulator:
    """The ray caster of a config; sequences reach as far as training and evaluation look."""
    return Simulator(
        num_frames=simulated_frames(cfg), elevations=cfg.data.beams, azimuths=cfg.data.columns
    )


def open_source(cfg: Config, name: Source, part: LidarPart, folder: str | None = None) -> LidarSet:
    """One set.

    Raises:
        UserError: files are missing; the message names layout and source.
    """
    check_part(name, part)
    if name == "simulated":
        return _simulated(cfg, part)
    if name == "kitti_clip":
        start, stop = CLIP_PARTS[part]
        if part == "train" and cfg.eval.split == "dev":
            start, stop = CLIP_TRAIN_BESIDE_DEV
        return packed_clip(bundled(CLIP, cfg.data.root), start, stop)
    root = set_folder(cfg, name, folder)
    train = part in ("train", "labelled")
    if name == "npz":
        where = root / ("train" if train else part)
        where = root if cfg.eval.own is not None and not where.is_dir() else where
        require(
            where,
            what="LiDAR sequences",
            layout="{train,test,dev}/*.npz with points_k, pose_k, time_k, boxes_k",
            source=ORIGINS[name],
            size="-",
        )
        return read_npz_sequences(sorted(where.glob("*.npz")))
    if name == "kitti":
        return kitti_raw(root, _drives(root, part, cfg.eval.split, cfg.eval.own is not None))
    if name == "semantic_kitti":
        return semantic_kitti(root, SEMANTIC_TRAIN if train else ("08",))
    if name == "nuscenes":
        return nuscenes(root, scenes=None if part == "train" else root / "splits" / _split(part))
    if name == "once":
        return once(root, {"train": "raw_small", "labelled": "train"}.get(part, "val"))
    return waymo(root, "train" if train else "val")


def check_part(name: Source, part: LidarPart) -> None:
    """Refuse a development part where there is none; the official test part is not a stand-in.

    Raises:
        UserError: the set has none.
    """
    if part == "dev" and name not in WITH_DEV:
        raise UserError(
            f"eval.split=dev: {name} has training and validation parts alone, and the latter is"
            f" what results are reported on; sets with a development part: {', '.join(WITH_DEV)}"
        )


def _drives(root: Path, part: LidarPart, split: str, own: bool) -> list[str] | None:
    """Names of the drives of a part of KITTI raw, which has no official ones.

    Every fifth drive by name is held out for the test, the ones before these are the development
    part, which is trained on where the test part is judged.

    Raises:
        UserError: too few drives.
    """
    names = sorted(p.name for p in root.glob("*/*_sync"))
    if not names or (own and part == "test"):
        return None  # all drives; without any, `kitti_raw` says what is missing
    test = names[4::5] or names[-1:]
    dev = [names[names.index(name) - 1] for name in test]
    train = [n for n in names if n not in test and not (split == "dev" and n in dev)]
    if not train or (split == "dev" and len(names) < 3):
        raise UserError(
            f"{root} has {len(names)} drive(s); some for training, others to be held out"
        )
    return {"test": test, "dev": dev}.get(part, train)


def _split(part: LidarPart) -> str:
    return "train.txt" if part == "labelled" else "val.txt"


def _simulated(cfg: Config, part: LidarPart) -> LidarSet:
    make, data = simulator(cfg), cfg.data
    if part == "labelled":
        return make.sequences(max(1, cfg.finetune.frames), LABEL_SEED + cfg.seed)
    if part == "train":
        return make.sequences(data.train_sequences, TRAIN_SEED + cfg.seed)
    return make.sequences(data.test_sequences, TEST_SEED if part == "test" else DEV_SEED)


def set_folder(cfg: Config, name: Source, folder: str | None = None) -> Path:
    """Where a set lies."""
    return data_root(cfg.data.root) / (folder or cfg.data.folder or FOLDERS[name])


def strides(cfg: Config) -> list[int]:
    """Frames between two used ones of each set, so that they are about half a second apart."""
    return [cfg.data.stride * STRIDE.get(name, 1) for name in cfg.data.sources]


def num_samples(cfg: Config) -> int:
    """Training windows per epoch, also of sets not on disk."""
    ahead = cfg.frames_ahead
    count = 0
    for name in cfg.data.sources:
        if name == "simulated":
            starts = simulated_frames(cfg) - ahead * cfg.data.stride
            count += cfg.data.train_sequences * max(0, starts)
        elif name == "kitti_clip":
            count += 110 - ahead * STRIDE[name] * cfg.data.stride
        else:
            count += SAMPLES.get(name, 0)
    return count


def requirements(cfg: Config) -> tuple[Requirement, ...]:
    """What the config needs on disk."""
    tunes_alone = cfg.finetune.encoder_weights is not None and cfg.finetune.source is not None
    names = [] if tunes_alone and not cfg.eval.segmentation_frames else [*cfg.data.sources]
    if cfg.finetunes and cfg.finetune.source is not None:
        names.append(cfg.finetune.source)
    needed = []
    for name in dict.fromkeys(names):
        if name == "simulated":
            continue
        if name == "kitti_clip":
            try:
                path, present = bundled(CLIP, cfg.data.root), True
            except UserError:
                path, present = Path("data") / CLIP, False
            needed.append(
                Requirement("data: bundled KITTI drive", str(path), present, "git checkout")
            )
            continue
        folder = cfg.finetune.folder if name == cfg.finetune.source else None
        path = set_folder(cfg, name, folder)
        needed.append(Requirement(f"data: {name}", str(path), path.exists(), ORIGINS[name]))
    return tuple(needed)
