"""What is shown of a clip, how the paper's configs train, whose settings count, and input that is
wrong.
"""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from common.config import UserError
from common.encoders.modes import evaluated, evaluation_mode
from common.engine.workspace import Workspace
from projects.video_qa.clips.batches import Layout, clip_view
from projects.video_qa.clips.clips import Clip, Sentence, within
from projects.video_qa.clips.frames import Frames, FramesInMemory
from projects.video_qa.data import layout_of, load_part
from projects.video_qa.descriptions import read_description
from projects.video_qa.evaluate import evaluate, judge, judged_part
from projects.video_qa.folder import export, exported_of, load_export
from projects.video_qa.inference import Answerer, looked_figure, opened
from projects.video_qa.module import VideoQA
from projects.video_qa.network import build_tokenizer, network_options
from projects.video_qa.objective import localisation_loss
from projects.video_qa.spans import temporal_iou
from projects.video_qa.stages import Words, stages
from tests.projects.video_qa.conftest import batch_of, config, network_of

SIX = Clip(
    "c",
    tuple(Sentence(2.0 * k, 2.0 * k + 1.8, f"line {k}") for k in range(3)),
    objects=tuple((f"thing{i // 6}",) for i in range(18)),
)


def frames_of(times, dim: int = 4) -> FramesInMemory:
    return FramesInMemory({"c": Frames(torch.ones(len(times), dim), np.asarray(times))}, dim)


def test_item_18_objects_of_clips_without_features():
    """Labels keep the set's frames a second where nothing is looked at, whole and localised."""
    layout = Layout(fps=3.0)
    assert clip_view(SIX, None, layout, None).objects == [("thing0",), ("thing1",), ("thing2",)]
    part = clip_view(SIX, None, Layout(fps=3.0, localised=True), (1.9, 4.1))
    assert [s.text for s in part.sentences] == ["line 1", "line 2"]
    assert part.objects == [("thing1",), ("thing2",)]  # the one of second 4.0
    seen = clip_view(SIX, frames_of(np.arange(18) / 3), Layout(localised=True), (1.9, 4.1))
    assert seen.objects == part.objects
    thin = clip_view(SIX, frames_of(np.arange(9) * 2 / 3), layout, None)  # every other frame
    assert thin.objects == [("thing0",), ("thing1",), ("thing2",)]
    absent = clip_view(SIX, frames_of([]), Layout(fps=6.0), None)
    assert absent.objects[0] == ("thing0", "thing1")  # 1.8 seconds are 11 frames
    assert clip_view(SIX._replace(sentences=()), None, Layout(max_objects=1), None).objects == [
        ("thing0",)
    ]


def test_sentences_outside_a_clip_are_dropped():
    """The sheet's preprocessing: those after its end and before its beginning, and those beyond
    N."""
    said = [Sentence(-3, -1, "a"), Sentence(-1, 0.5, "b"), Sentence(1, 2, "c"), Sentence(4, 5, "d")]
    assert [s.text for s in within(said, 4.0, 9)] == ["b", "c"]
    assert [s.text for s in within(said, None, 2)] == ["b", "c"]


def test_every_size_of_the_config_reaches_the_layout():
    cfg = config(
        "data.max_sentences=7",
        "data.max_length=31",
        "data.max_objects=3",
        "data.localised=true",
        "method.localisation_weight=0",
        "data.fps=2.5",
        "model.streams=text",
    )
    assert layout_of(cfg) == Layout(7, 31, 3, True, False, 2.5)
    assert layout_of(cfg, pretraining=True) == Layout(7, 31, 3, False, False, 2.5)


@pytest.mark.parametrize(
    ("name", "questions"),
    [
        ("paper", 122_039),
        ("paper_text", 122_039),
        ("paper_tvqa_plus", 23_545),
        ("paper_dramaqa", 11_118),
    ],
)
def test_paper_configs_validate_often_and_warm_up_a_tenth(name, questions):
    """About nine validations; 10 % linear warm-up in either stage; u_ij alone."""
    cfg = config(name=name)
    epoch = questions // cfg.data.batch_size
    main, first = (int(e * epoch) for e in (cfg.trainer.max_epochs, cfg.pretrain.epochs))
    assert 8 <= main // cfg.trainer.val_every_n_steps <= 10
    assert main // cfg.trainer.checkpoint_every_n_steps >= 8
    assert network_options(cfg)["fusion"] == "attended"
    small = config("method.warmup_share=0.1", "optim.warmup_steps=0")
    assert cfg.method.warmup_share == 0.1
    assert (cfg.optim.warmup_steps, cfg.optim.warmup_epochs) == (0, 0)
    for steps in (main, first):
        module = VideoQA(small, network_of(small))
        module.__dict__["_trainer"] = SimpleNamespace(
            max_steps=steps, precision="32", gradient_clip_val=None, strategy=None
        )
        factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
        end = round(0.1 * steps)
        assert factor(end // 2) == pytest.approx(0.5, abs=0.01)
        assert factor(end - 1) == 1.0
        assert factor(end + 10) < 1.0


def test_a_main_stage_that_would_never_be_validated_is_refused():
    """Before pre-training begins, with the number of steps."""
    with pytest.raises(UserError, match="main stage has 4 steps.*set at most 4"):
        next(stages(config("trainer.val_every_n_steps=5")))
    assert next(stages(config("trainer.val_every_n_steps=4"))).name == "pretrain"


def test_settings_of_an_export_count_whatever_the_command_says(tmp_path):
    """`eval` and `analyse` of a folder use its tokenizer, layout and network."""
    own = config(
        "data.max_objects=2",
        "data.max_length=20",
        "model.rnn=gru",
        "model.time_embedding=true",
        "model.hidden=6",
        "model.fusion=attended",
    )
    module = VideoQA(own, network_of(own))
    export(own, module, tmp_path / "a")
    command = config(
        "data.max_objects=0",
        "data.max_sentences=2",
        "model.streams=text",
        "method.localisation_weight=0",
        "model.tokenizer=bundled:text-encoder",
        "eval.limit=16",
        "eval.figures=0",
    )
    again = load_export(command, tmp_path / "a")
    assert network_options(again.cfg) == network_options(own)
    assert layout_of(again.cfg) == layout_of(own)
    assert again.cfg.model.tokenizer == str(tmp_path / "a/tokenizer")
    left, right = exported_of(module), exported_of(again)
    assert left.words("put a on b") == right.words("put a on b")
    export(command, again, tmp_path / "b")  # an export of an export is the same one
    assert (tmp_path / "b/config.json").read_text() == (tmp_path / "a/config.json").read_text()
    command.eval.mask_probs = own.eval.mask_probs = []
    own.eval.limit, own.eval.figures = 16, 0
    told = [
        evaluate(cfg, m.eval(), Workspace(tmp_path / "w"))
        for cfg, m in ((own, module), (command, again))
    ]
    assert told[0] == told[1]
    assert "attention_on_own_span" in told[1]


def test_item_17_localisation_goes_by_the_right_candidate():
    """In training the span's logits are those of the right candidate, not of the chosen one."""
    cfg = config("method.contrast_weight=0")
    net, batch = network_of(cfg), batch_of(cfg, 8)
    out = net(batch)
    assert not out.scores.argmax(1).eq(batch["labels"]).all()
    expected = localisation_loss(
        net.span_logits(out, batch["labels"]), batch["sentence_mask"], batch["spans"]
    )
    term = VideoQA(cfg, net).losses(batch)["localisation"]
    assert torch.equal(term, expected)
    own = localisation_loss(
        net.span_logits(out, out.scores.argmax(1)), batch["sentence_mask"], batch["spans"]
    )
    assert not torch.equal(own, expected)


def test_item_16_spans_are_judged_by_the_chosen_candidate(monkeypatch):
    """No right answer enters mIoU and ASA: the span is that of the candidate that the model
    chose."""
    cfg = config("eval.limit=16")
    module = VideoQA(cfg, network_of(cfg))
    asked = []

    def logits(out, candidates):  # candidate i points at sentence i % 3
        asked.append(candidates)
        at = torch.nn.functional.one_hot(candidates % 3, out.states.shape[2])
        return 9.0 * at[..., None].expand(-1, -1, 2)

    monkeypatch.setattr(module.network, "span_logits", logits)
    loaded = judged_part(cfg)
    with evaluated(module, "cpu"):
        actual = judge(cfg, module, loaded, Words(build_tokenizer(cfg)))
    assert torch.cat(asked).tolist() == actual.chosen
    assert actual.chosen != [q.answer for q in loaded.questions]
    for q, chosen, iou in zip(loaded.questions, actual.chosen, actual.ious, strict=True):
        told = loaded.clips[q.clip].sentences[chosen % 3][:2]
        assert iou == (
            None if q.span is None else pytest.approx(temporal_iou(told, q.span), abs=1e-5)
        )
    assert None in actual.ious


def test_the_text_stream_is_the_first_token_s():
    """A sentence's vector is its [CLS]."""
    cfg = config()
    net, batch = network_of(cfg), batch_of(cfg)
    with evaluation_mode(net):
        sequences = (batch[k] for k in ("input_ids", "attention_mask", "token_type_ids"))
        tokens = net.tokens(*sequences, batch["sentence_mask"])
        b, a, n = tokens.shape[:3]
        rows = batch["sentence_mask"][:, None].expand(b, a, n).reshape(b * a, n)
        _, pooled = net.text_rnn(tokens[..., 0, :].reshape(b * a, n, -1), rows)
        assert torch.allclose(net(batch).text, pooled.view(b, a, -1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"questions": ["Who?"]}, "question 1"),
        ({"questions": {"question": "Who?"}}, "needs a list as 'questions'"),
        ({"questions": [{"question": "Who?", "candidates": "yes"}]}, "two or more texts"),
        ({"questions": [{"question": "Who?", "candidates": ["I"]}]}, "two or more texts"),
        ({"questions": [{"question": "Who?", "candidates": ["I", 3]}]}, "two or more texts"),
        ({"fps": "three"}, "above 0 as 'fps'"),
        ({"fps": -3}, "above 0"),
        ({"fps": True}, "above 0"),
        ({"fps": float("nan")}, "above 0"),
        ({"frames": 3}, "folder of pictures"),
        ({"fsp": 3}, "'fsp', which is none of"),
        ({"objects": ["cup"]}, "list of labels for each frame"),
        ({"subtitles": 5}, "start, end, text"),
        ({"subtitles": [{"start": None, "end": 1, "text": "x"}]}, "start, end, text"),
    ],
)
def test_descriptions_of_another_form_are_refused(change, said, tmp_path):
    """Every part of the description is checked when it is read."""
    told = {
        "fps": 3,
        "subtitles": [],
        "questions": [{"question": "Who?", "candidates": ["I", "you"]}],
    }
    (tmp_path / "clip.json").write_text(json.dumps(told | change))
    with pytest.raises(UserError, match=said):
        read_description(str(tmp_path / "clip.json"))
    (tmp_path / "clip.json").write_text(json.dumps(told))
    assert read_description(str(tmp_path / "clip.json")).questions == [("Who?", ["I", "you"])]


def test_objects_of_a_clip_of_one_s_own(tmp_path):
    """A description carries labels, at its own frames a second, to a model that looks at no
    frames."""
    cfg = config("model.streams=text", "data.fps=6")
    answerer = Answerer(exported_of(VideoQA(cfg, network_of(cfg))))
    told = {
        "fps": 1,
        "subtitles": [{"start": 0, "end": 0.9, "text": "a"}, {"start": 1, "end": 1.9, "text": "b"}],
        "objects": [["cup"], ["dog"]],
        "questions": [{"question": "Who?", "candidates": ["I", "you"]}],
    }
    (tmp_path / "clip.json").write_text(json.dumps(told))
    read = read_description(str(tmp_path / "clip.json"))
    actual = answerer.answer(read.clip, None, *read.questions[0], read.fps)
    assert actual.view.objects == [("cup",), ("dog",)]
    called = answerer(
        [], [(0, 0.9, "a"), (1, 1.9, "b")], "Who?", ["I", "you"], fps=1, objects=[["cup"], ["dog"]]
    )
    assert called.probabilities == actual.probabilities
    assert (
        answerer.answer(read.clip, None, *read.questions[0]).probabilities != actual.probabilities
    )


def test_pictures_are_turned_and_prices_are_no_formulas(tmp_path):
    """Photographs as their camera says; a figure's words may hold dollar signs."""
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side
    Image.new("RGB", (8, 4)).save(tmp_path / "frame.jpg", exif=exif)
    assert opened(tmp_path / "frame.jpg").size == (4, 8)
    words = r"$\frac$ or $5"
    view = SimpleNamespace(sentences=[SimpleNamespace(text=words)])
    answer = SimpleNamespace(
        looked=torch.ones(1, 2), view=view, span=(0.0, 1.0), text=words, probabilities=[1.0]
    )
    looked_figure(answer, title=words).savefig(tmp_path / "looked.png")


def test_an_encoder_of_other_features_is_named():
    """Features of 2048 numbers need their encoder, not the small default."""
    cfg = config("data.feature_dim=20")
    answerer = Answerer(exported_of(VideoQA(cfg, network_of(cfg))))
    with pytest.raises(UserError, match=r"features of 20 numbers.*makes 64.*model\.image_encoder="):
        answerer([Image.new("RGB", (8, 8))], [], "Who?", ["I", "you"])


def test_text_runs_open_no_features(tmp_path):
    """A network without frames needs no folder of features, whatever the config names."""
    from tests.projects.video_qa.test_experiment import tv

    cfg = tv(tmp_path)
    cfg.model.streams, cfg.data.features = "text", "nowhere"
    assert load_part(cfg, "train").frames is None


def test_a_learning_rate_of_zero_is_refused_by_its_range():
    """Two rates divide by `optim.lr`, which the schema keeps above 0."""
    with pytest.raises(UserError, match=r"optim\.lr must be > 0"):
        config("optim.lr=0")
