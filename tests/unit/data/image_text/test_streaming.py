import io
import json
import tarfile
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from common.config import UserError
from common.data.corrupt import CorruptCounter
from common.data.image.sources import EvalTransform, TrainTransform
from common.data.image_text.shards import expand_shards, sample_id
from common.data.image_text.streaming import CaptionedSamples, ShardStream, _LaneReader
from common.data.module import ContrastiveData, identity
from common.data.samplers import sample_rng
from common.data.text.tokenizers import BpeTokenizer


def picture(i):
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), (i % 256, i // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(folder, num_shards, per_shard, broken=()):
    """Shards of pairs; sample i of the set is named by its number, `broken` ones are no images."""
    for shard in range(num_shards):
        with tarfile.open(folder / f"{shard:04d}.tar", "w") as tar:
            for i in range(shard * per_shard, (shard + 1) * per_shard):
                content = {
                    "png": b"broken" if i in broken else picture(i),
                    "txt": f"caption of {i}\n".encode(),
                    "json": json.dumps({"rewrites": [f"first of {i}", f"second of {i}"]}).encode(),
                }
                for suffix, data in content.items():
                    info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(folder / f"{{0000..{num_shards - 1:04d}}}.tar")


@pytest.fixture(scope="module")
def tokenizer():
    return BpeTokenizer.train([f"caption first second of {i}" for i in range(99)], vocab_size=300)


@pytest.fixture
def stream(tokenizer):
    def make(shards, **options):
        text = {
            k: options.pop(k) for k in ("text_keys", "text_policy", "num_texts") if k in options
        }
        options = {"batch_size": 5, "seed": 3, "shuffle_buffer": 12, **options}
        samples = CaptionedSamples(TrainTransform(8), tokenizer, seed=options["seed"], **text)
        return ShardStream(shards, samples, **options)

    return make


def read(data, batches, num_workers=0):
    loader = DataLoader(data, batch_size=None, num_workers=num_workers, collate_fn=identity)
    return list(islice(loader, batches))


def as_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr("common.data.image_text.streaming.rank", lambda: rank)
    monkeypatch.setattr("common.data.image_text.streaming.world_size", lambda: world_size)


def same(a, b):
    return all(
        torch.equal(x["images"], y["images"])
        and torch.equal(x["tokens"], y["tokens"])
        and torch.equal(x["ids"], y["ids"])
        and x["skipped"] == y["skipped"]
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_three_broken_samples_among_200_are_skipped_and_reported(
    tmp_path, stream, num_workers, caplog
):
    broken = (17, 60, 133)
    shards = write_shards(tmp_path, 4, 50, broken)
    data = stream(shards, num_samples=200, num_workers=num_workers)
    batches = read(data, 40, num_workers)
    seen = torch.cat([b["ids"] for b in batches]).tolist()
    assert sorted(seen) == [i for i in range(200) if i not in broken]
    assert sum(b["skipped"] for b in batches) == 3
    assert sum(len(b["ids"]) for b in batches) == 197
    if num_workers == 0:
        assert data.skipped == 3
        assert "000060" in caplog.text
    else:  # processes read ahead into the next epoch, where the same samples are broken again
        assert data.skipped >= 3


def test_too_many_broken_samples_stop_the_run(tmp_path, stream):
    shards = write_shards(tmp_path, 2, 100, broken=range(0, 200, 9))
    with pytest.raises(UserError, match="samples are corrupt, more than the tolerated 5.0%"):
        read(stream(shards, num_samples=200), 40)
    assert len(read(stream(shards, num_samples=200, max_corrupt=0.2), 40)) == 40


@pytest.mark.parametrize(
    ("num_workers", "first"),
    [(0, 1), (0, 13), (2, 8), pytest.param(3, 13, marks=pytest.mark.slow)],
)
def test_resume_gives_the_very_same_batches(tmp_path, stream, num_workers, first):
    """Epochs of 10 batches; positions within an epoch, across its end, and for any process
    count."""
    shards = write_shards(tmp_path, 4, 13, broken=(20,))
    whole = read(stream(shards, num_samples=52), 18, num_workers)
    resumed = stream(shards, num_samples=52)
    resumed.start_at(first)
    assert same(read(resumed, 18 - first, num_workers), whole[first:])
    other = stream(shards, num_samples=52, seed=4)
    assert not same(read(other, 3, num_workers), whole[:3])


def test_epochs_bring_another_order_and_other_crops(tmp_path, stream):
    data = stream(write_shards(tmp_path, 4, 10), num_samples=40)
    batches = read(data, 16)
    first, second = (torch.cat([b["ids"] for b in batches[i : i + 8]]) for i in (0, 8))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(40))
    assert first.tolist() != second.tolist()
    data.start_at(data.batches_per_epoch)
    assert same(read(data, 8), batches[8:])


def test_ranks_share_the_shards(tmp_path, stream, monkeypatch):
    shards = write_shards(tmp_path, 4, 10)
    seen = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        batches = read(stream(shards, num_samples=40, resampled=False), 4, num_workers=2)
        seen.append({int(i) for b in batches for i in b["ids"]})
    assert len(seen[0]) == len(seen[1]) == 20
    assert not seen[0] & seen[1]


def test_resampled_shards_serve_any_number_of_processes(tmp_path, stream, monkeypatch):
    shards = write_shards(tmp_path, 2, 10)
    drawn = []
    for rank in range(2):
        as_rank(monkeypatch, rank, 2)
        drawn.append(torch.cat([b["ids"] for b in read(stream(shards), 6, num_workers=3)]).tolist())
    assert drawn[0] != drawn[1]  # resampled by default, since there are two ranks


def test_too_few_shards_are_refused_before_the_start(tmp_path, stream, monkeypatch):
    shards = write_shards(tmp_path, 3, 4)
    with pytest.raises(UserError, match=r"3 shards cannot be shared by 1 rank\(s\) x 4 loader"):
        stream(shards, num_workers=4).start_at(0)
    data, process = stream(shards), SimpleNamespace(id=0, num_workers=4)
    monkeypatch.setattr("common.data.image_text.streaming.get_worker_info", lambda: process)
    with pytest.raises(UserError, match="lower data.num_workers"):
        next(iter(data))
    as_rank(monkeypatch, 0, 4)
    with pytest.raises(UserError, match=r"4 rank\(s\)"):
        stream(shards, resampled=False).start_at(0)
    stream(shards, num_workers=4).start_at(0)  # several ranks resample


def test_rewrites_from_json_fields(tmp_path, stream):
    shards = write_shards(tmp_path, 1, 20)
    options = {"num_samples": 20, "text_keys": ("txt", "json.rewrites")}
    texts = [t for b in read(stream(shards, **options), 40) for t in b["texts"]]
    kinds = [text.split()[0] for text in texts]
    assert all(45 < kinds.count(kind) < 90 for kind in ("caption", "first", "second"))
    multi = read(stream(shards, text_policy="multi", num_texts=2, **options), 1)[0]
    assert multi["tokens"].shape[:2] == (5, 2)
    assert all(
        row[0] == f"caption of {i}"
        for i, row in zip(multi["ids"].tolist(), multi["texts"], strict=True)
    )
    with pytest.raises(UserError, match="num_texts=4, but a sample has 3"):
        read(stream(shards, text_policy="multi", num_texts=4, **options), 1)


def test_truncated_and_empty_shards(tmp_path, stream):
    shards = write_shards(tmp_path, 2, 20)
    whole = (tmp_path / "0001.tar").read_bytes()
    (tmp_path / "0001.tar").write_bytes(whole[: len(whole) // 2 + 100])
    batches = read(stream(shards, max_corrupt=0.5, num_samples=40), 30)
    ids = {int(i) for b in batches for i in b["ids"]}
    assert set(range(20)) < ids < set(range(40))
    assert sum(b["skipped"] for b in batches) == 20  # the shard counts as its samples, once
    with pytest.raises(UserError, match=r"1 of 2 shards cannot be read to their end.*0001\.tar"):
        read(stream(shards, max_corrupt=0.2), 30)
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(UserError, match="are they empty"):
        read(stream(str(tmp_path / "empty.tar")), 1)


def test_missing_shards_are_named(tmp_path):
    write_shards(tmp_path, 2, 1)
    with pytest.raises(UserError, match=r"1 of 3 shards do not exist, first .*0002.tar"):
        expand_shards(str(tmp_path / "{0000..0002}.tar"))
    with pytest.raises(UserError, match="0 of 0 shards"):
        expand_shards([])
    assert expand_shards(["https://example.org/{0..1}.tar"])[1] == "https://example.org/1.tar"


def test_patterns_are_below_the_root_unless_they_are_absolute_or_no_files(tmp_path):
    root = tmp_path / "{a}"
    (root / "x").mkdir(parents=True)
    paths = [root / "x/0.tar", root / "1.tar", tmp_path / "2.tar"]
    for path in paths:
        path.touch()
    pattern = f"{{x/0,1,{tmp_path}/2}}.tar"
    assert expand_shards(pattern, root) == list(map(str, paths))
    for name in ("https://example.org/1.tar", "pipe:cat 1.tar"):
        assert expand_shards(name, root) == [name]


def test_small_set_and_sample_numbers(tmp_path, stream):
    shards = write_shards(tmp_path, 1, 3)
    with pytest.raises(UserError, match="3 samples do not fill one batch of 5.*=3 or less"):
        stream(shards, num_samples=3).start_at(0)
    assert sample_id("000017") == 17
    assert sample_id("a/b") == sample_id("a/b") != sample_id("a/c")
    assert 0 <= sample_id("9" * 40) < 2**63


def test_data_module_starts_the_stream_where_it_is_told(tmp_path, stream):
    shards = write_shards(tmp_path, 4, 10)
    module = ContrastiveData(stream(shards, num_samples=40), batch_size=5, seed=3)
    assert module.batches_per_epoch() == 8
    whole = list(islice(module.train_dataloader(), 12))
    module.start_at(9)
    assert same(list(islice(module.train_dataloader(), 3)), whole[9:])


def test_eval_transform_streams_too(tmp_path, tokenizer):
    shards = write_shards(tmp_path, 1, 6)
    samples = CaptionedSamples(EvalTransform(8), tokenizer, seed=0)
    data = ShardStream(shards, samples, batch_size=6, seed=0, shuffle_buffer=0)
    assert next(iter(data))["ids"].tolist() == list(range(6))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize("lanes", [1, 8])
def test_lost_shards_of_all_loader_processes_are_judged_together(tmp_path, stream, lanes):
    """Each process sees its own shards: one of five shards is lost, whoever reads it."""
    shards = write_shards(tmp_path, 40, 4)
    for i in range(0, 40, 5):
        cut(tmp_path / f"{i:04d}.tar", 5000)
    data = stream(shards, batch_size=4, num_samples=160, shuffle_buffer=0, max_corrupt=0.15)
    counter = CorruptCounter("samples", max_fraction=1.0)

    def pass_over_all():
        for lane in range(lanes):
            reader = _LaneReader(data, lane, lanes, counter)
            reader.seek(0, 0)
            for _ in range(40 // lanes):
                reader.read()

    with pytest.raises(UserError, match="7 of 40 shards cannot be read to their end"):
        pass_over_all()


def test_lost_shards_are_judged_against_those_of_the_rank(tmp_path, stream, monkeypatch):
    """Two of the ten that rank 0 has in this epoch."""
    shards = write_shards(tmp_path, 20, 2)
    order = sample_rng(3, 0, 0, 2).permutation(20)
    for i in order[0:20:2][:2]:
        cut(tmp_path / f"{i:04d}.tar", 3000)
    as_rank(monkeypatch, 0, 2)
    options = {"batch_size": 2, "num_samples": 40, "resampled": False, "shuffle_buffer": 0}
    data = stream(shards, max_corrupt=0.2, **options)
    assert len(read(data, 10)) == 10
    with pytest.raises(UserError, match="2 of 10 shards"):
        read(stream(shards, max_corrupt=0.15, **options), 10)


def test_the_shard_that_is_lost_is_the_one_that_is_named(tmp_path, stream, monkeypatch):
    """One name may be in another, as that of a relative path."""
    write_shards(tmp_path, 1, 4)
    (tmp_path / "10.tar").write_bytes((tmp_path / "0000.tar").read_bytes())
    (tmp_path / "0000.tar").rename(tmp_path / "0.tar")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "10.tar").write_bytes(b"x" * 512 + (tmp_path / "0.tar").read_bytes()[512:])
    with pytest.raises(UserError, match=r"last 10\.tar \("):
        read(stream(["0.tar", "10.tar"], max_corrupt=0.0), 9)
