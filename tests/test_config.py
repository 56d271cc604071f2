"""Configurations: defaults, overrides, JSON, and precedence."""

from __future__ import annotations

import dataclasses
import json
import re
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrcnn.config import (
    Config,
    ConfigError,
    DataConfig,
    TrainConfig,
    dump_json,
    from_dict,
    load_json,
    make_config,
    override,
    parse_settings,
    to_dict,
)
from mxrcnn.config.listing import field_docs, list_settings
from mxrcnn.config.overrides import full_name, plain_config
from mxrcnn.config.sections import DATA_RANGES, TRAIN_RANGES, fields_of
from mxrcnn.config.suggestions import SYNONYMS
from mxrcnn.runs.checkpoint import RunFolder
from mxrcnn.training.configure import QUICK, TrainRequest, build_config, print_config
from mxrcnn.training.run import prepare
from symnet import get_detector, list_detectors
from symnet.config.ranges import RANGES
from tests.factories import TINY, Picture, make_voc

NETWORK = "faster_rcnn_vgg16"
#: build_config looks for full names only
VOC = {"data.dataset": "voc", "data.root": "devkit"}


def built(*words: str, **request: typing.Any) -> Config:
    return build_config(TrainRequest(words=words, **request)).config


# Defaults


def test_defaults_are_the_classic_training():
    config = make_config()
    assert config.network == NETWORK
    assert (config.data.short_side, config.data.long_side) == (600, 1000)
    train = config.train
    assert (train.lr, train.momentum, train.weight_decay, train.clip_gradient) == (
        0.001,
        0.9,
        5e-4,
        5.0,
    )
    assert (train.fixed, config.model.trainable_layers) == ((), 3)
    assert (config.model.rpn_batch_size_per_image, config.model.box_batch_size_per_image) == (
        256,
        128,
    )


def test_frozen():
    config = make_config()
    for part in (config, config.data, config.train, config.model):
        name = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, name, getattr(part, name))


# Overrides


@pytest.mark.parametrize(
    ("key", "value", "section", "stored"),
    [
        ("train.lr", 0.5, "train", 0.5),
        ("lr", 1, "train", 1.0),
        ("epochs", 3.0, "train", 3),
        ("flip", False, "data", False),
        ("data.mean", [1, 2, 3], "data", (1.0, 2.0, 3.0)),
        ("class_names", "dog", "data", ("dog",)),
        ("lr_decay_epoch", 7, "train", (7,)),
        ("fixed", "", "train", ()),
        ("data.root", 7, "data", "7"),
        ("num_classes", 4, "model", 4),
        ("model.anchor_scales", (2, 4), "model", (2.0, 4.0)),
    ],
)
def test_override(key, value, section, stored):
    before = make_config()
    config = override(before, {key: value})
    got = getattr(getattr(config, section), key.rpartition(".")[2])
    assert got == stored
    assert type(got) is type(stored)
    assert before == make_config()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.epoch", 3, "train.epoch; did you mean train.epochs"),
        ("epoch", 3, "did you mean epochs"),
        ("trian.epochs", 3, r"unknown setting trian\.epochs; did you mean train\.epochs\?"),
        ("model.lr", 0.1, "model.lr"),
        ("qqqq", 1, "unknown setting qqqq; all are listed by: .*--list-settings --network faster"),
        ("lerning_rate", 1, r"lerning_rate; did you mean train\.lr\?$"),
        ("learning_rate", 1, r"did you mean train\.lr\?"),
        ("train.lr0", 1, r"train\.lr0; did you mean train\.lr\?"),
        ("max_epochs", 1, r"did you mean train\.epochs\?"),
        ("imgsz", 1, r"did you mean data\.short_side or data\.long_side\?"),
        ("batch", 1, r"did you mean train\.batch_size\?"),
        ("momentun", 1, r"did you mean momentum\?"),
        ("conf_thres", 1, r"did you mean model\.score_thresh\?"),
        ("freeze", 1, r"did you mean model\.trainable_layers or train\.fixed\?"),
        ("num_workers", 1, r"did you mean --num-workers\?"),
        ("data.lr", 1, r"did you mean train\.lr\?"),
        (
            "how_many_positive",
            1,
            r"; there are model\.rpn_positive_fraction, model\.box_positive_fraction; all are",
        ),
        ("epochs", 1.5, "epochs=1.5: expected int"),
        ("epochs", True, "epochs=True: expected int"),
        ("epochs", float("inf"), "epochs=inf"),
        ("epochs", float("nan"), "epochs=nan"),
        ("epochs", "three", "epochs='three'"),
        ("lr", "fast", "lr='fast': expected float"),
        ("lr", True, "lr=True"),
        ("flip", 1, "flip=1: expected bool"),
        ("root", ["a"], r"root=\['a'\]"),
        ("mean", [1, "x", 3], "mean='x': expected float"),
        ("lr_decay_epoch", [[7]], "lr_decay_epoch"),
    ],
)
def test_override_refuses(key, value, message):
    with pytest.raises(ConfigError, match=message):
        override(make_config(), {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.batch_size", 0),
        ("train.log_interval", 0),
        ("train.epochs", -1),
        ("train.lr", float("nan")),
        ("train.lr", float("inf")),
        ("train.lr_decay_epoch", (7, -1)),
        ("train.seed", -1),
        ("data.pad_multiple", 0),
        ("data.short_side", -600),
        ("data.mean", (1, 2)),
        ("data.mean", (1, 2, float("nan"))),
        ("data.std", (1, 1, 0)),
        ("data.mean", (1, 2, 256)),
        ("data.mean", (1, 2, -3)),
        ("data.std", (1, 1)),
        ("data.class_names", ("dog", "cat", "dog")),
        ("train.momentum", 1),
        ("train.momentum", 1.5),
        ("train.weight_decay", 1.0),
        ("train.lr_decay", 10.0),
        ("train.lr_decay", 0),
        ("train.warmup_factor", 1.01),
        ("train.fixed", ("conv1", "")),
    ],
)
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(ConfigError, match=key):
        override(make_config(), {key: value})


def test_values_from_0_to_1_where_pixels_go_to_255():
    torchs = {"data.mean": (0.485, 0.456, 0.406), "data.std": (0.229, 0.224, 0.225)}
    with pytest.raises(ConfigError, match=r"data.mean=.*data.std=.*multiply both by 255"):
        override(make_config(), torchs)


def test_fixed_names_that_no_parameter_has(tmp_path):
    """A misspelt one silently fixed nothing."""
    data = make_voc(tmp_path / "devkit", {"a": Picture()})
    where = {"data.dataset": "voc", "data.root": str(data), "data.imageset": "2007_train"}

    def start(*fixed: str) -> None:
        settings = {**TINY, **where, "train.fixed": fixed}
        prepare(TrainRequest(settings=settings, out=str(tmp_path / "run")))

    with pytest.raises(ConfigError, match=r"train\.fixed='conv9': no parameter .* are conv1_1, c"):
        start("conv1", "conv9")
    with pytest.raises(ConfigError, match="nothing is left to train"):
        start("conv", "rpn", "fc", "cls", "bbox")
    assert not (tmp_path / "run").exists()


def test_workers_of_other_toolkits_are_loader_processes():
    with pytest.raises(ConfigError, match=r"train.workers=4: .*--num-workers"):
        built("workers=4")


@pytest.mark.parametrize("network", list_detectors())
def test_all_settings_are_listed(network):
    config = make_config(network)
    lines = {line.split()[0]: line for line in list_settings(config).splitlines()}
    names = {name for name in lines if not name.endswith(":")}  # of groups
    assert names == {name for name, _ in fields_of(config)}
    assert field_docs(DataConfig).keys() == {f.name for f in dataclasses.fields(DataConfig)}
    assert field_docs(TrainConfig).keys() == {f.name for f in dataclasses.fields(TrainConfig)}
    assert lines["train.lr"].split()[:3] == ["train.lr", "float", str(config.train.lr)]
    assert lines["train.momentum"].endswith("  momentum of SGD")


def test_comments_beside_and_above_fields_document_them():
    assert field_docs(Documented) == {
        "beside": "said beside it",
        "above": "said above it, in two lines",
    }


@dataclasses.dataclass
class Documented:
    """A section. beside: not said here."""

    beside: int = 1  #: said beside it
    #: said above it,
    #: in two lines
    above: tuple[int, ...] = (1,)  # not this
    text: str = "#: nor this"
    nothing: int = 0


def test_every_synonym_leads_to_a_setting_that_some_network_has():
    configs = [make_config(network) for network in list_detectors()]
    known = {name for config in configs for name, _ in fields_of(config)}
    bare = {name.rpartition(".")[2] for name in known}
    for theirs, ours in SYNONYMS.items():
        assert all(name in known or name.startswith("--") for name in ours), theirs
        assert theirs not in bare, f"{theirs} is a setting"


def test_full_name():
    config = make_config()
    assert full_name(config, "lr") == full_name(config, "train.lr") == "train.lr"
    assert full_name(config, "root") == "data.root"
    with pytest.raises(ConfigError, match=r"data\.lr"):
        full_name(config, "data.lr")


def test_ambiguous_name_is_refused_and_its_section_settles_it():
    @dataclasses.dataclass(frozen=True)
    class Model:
        lr: float = 1.0

    config = dataclasses.replace(make_config(), model=Model())
    with pytest.raises(ConfigError, match="ambiguous setting lr"):
        override(config, {"lr": 0.5})
    assert override(config, {"model.lr": 0.5}).model.lr == 0.5
    assert override(config, {"train.lr": 0.5}).train.lr == 0.5


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("k=3", 3),
        ("k=0.5", 0.5),
        ("k=true", True),
        ("k= False ", False),
        ("k=7,9", (7, 9)),
        ("k=(7, 9)", (7, 9)),
        ("k=()", ()),
        ("k=conv1,conv2", ("conv1", "conv2")),
        ("k=2007_train", "2007_train"),
        ("k=2007_2012", "2007_2012"),
        ("k=/data/a b", "/data/a b"),
        ("k=a=b", "a=b"),
        ("k=", ""),
        (" k =1", 1),
        ("k=__import__('os')", "__import__('os')"),
    ],
)
def test_parse_settings(word, value):
    parsed = parse_settings([word])
    assert parsed == {"k": value}
    assert type(parsed["k"]) is type(value)


@pytest.mark.parametrize("word", ["epochs", "=3", "=", ""])
def test_parse_settings_refuses(word):
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_settings([word])


# JSON

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = {
    bool: st.booleans(),
    int: st.integers(1, 10**9),
    float: st.floats(1e-9, 1e9),
    str: TEXT,
}


ALL_RANGES = {**RANGES, **DATA_RANGES, **TRAIN_RANGES}


def numbers_of(name: str, hint: typing.Any) -> st.SearchStrategy:
    """Values of a field with a range, and some of its ends."""
    allowed = ALL_RANGES[name]
    args = typing.get_args(hint)
    least, greatest = allowed.least, min(allowed.greatest, 1e9)
    if (args or (hint,))[0] is int:
        number = st.integers(int(least) + allowed.above, int(greatest) - allowed.below)
    else:
        ends = {"exclude_min": allowed.above, "exclude_max": allowed.below}
        number = st.floats(least, greatest, **ends)
    if not args:
        return number
    count = allowed.count
    return st.lists(number, min_size=count or 1, max_size=count or 4).map(tuple)


def values_of(cls: type) -> st.SearchStrategy:
    """Instances of a config section with any allowed value in each field."""
    fields = {}
    for name, hint in typing.get_type_hints(cls).items():
        if name == "std":  # of pixels from 0 to 255
            fields[name] = st.tuples(*[st.floats(1, 255)] * 3)
        elif name in ("body", "units"):  # those of the network
            fields[name] = st.just(getattr(cls, name))
        elif name in ALL_RANGES:
            fields[name] = numbers_of(name, hint)
        elif typing.get_origin(hint) is tuple:  # of names
            text = TEXT.filter(bool)
            fields[name] = st.lists(text, max_size=4, unique=True).map(tuple)
        elif typing.get_origin(hint) is typing.Literal:
            fields[name] = st.sampled_from(typing.get_args(hint))
        else:
            fields[name] = VALUES[hint]
    made = st.fixed_dictionaries(fields)
    if "rpn_bg_iou_thresh" in fields:
        made = made.filter(
            lambda values: values["rpn_bg_iou_thresh"] <= values["rpn_fg_iou_thresh"]
        )
    if "square" in fields:
        made = made.filter(lambda values: values["long_side"] or not values["square"])
    if "tile" in fields:  # none where it is too small
        sides = ("tile", "short_side", "long_side")
        made = made.map(
            lambda v: {**v, "tile": v["tile"] if min(v[s] or 64 for s in sides) >= 64 else 0}
        )
    if "val_share" in fields:  # either a share, or other images, or another data set's
        share = {"val_imageset": "", "val_dataset": "", "val_root": "", "val_images": ""}
        made = made.map(lambda values: {**values, **(share if values["val_share"] else {})})
        whole = {"val_imageset": "x", "val_root": "y"}
        made = made.map(lambda values: {**values, **(whole if values["val_dataset"] else {})})
    return made.map(lambda values: cls(**values))


@given(
    st.builds(
        Config,
        network=st.just(NETWORK),
        model=values_of(get_detector(NETWORK).config),
        data=values_of(DataConfig),
        train=values_of(TrainConfig),
    )
)
def test_json_round_trip(config):
    assert from_dict(json.loads(dump_json(config))) == config
    assert from_dict(to_dict(config)) == config


def test_json_of_an_older_run_gets_defaults_for_what_it_lacks(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"network": NETWORK, "train": {"epochs": 3}}))
    # a run is judged as it was begun: by voc07, before there was a choice
    assert load_json(path) == override(make_config(), {"epochs": 3, "val_metric": "voc07"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"network": "faster_rcnn_vgg16", "train": {"epoch": 3}}', "train.epoch.*train|epochs"),
        ('{"network": "faster_rcnn_vgg16", "trian": {}}', "unknown setting trian"),
        ('{"network": "faster_rcnn_vgg16", "train": {"epochs": "3"}}', "train.epochs='3'"),
        ('{"network": "faster_rcnn_vgg16", "train": {"epochs": 1e999}}', "train.epochs=inf"),
        ('{"network": "faster_rcnn_vgg16", "train": {"batch_size": 0}}', "train.batch_size=0"),
        ('{"network": "faster_rcnn_vgg16", "model": null}', "model=None"),
        ('{"network": "faster_rcnn_vgg17"}', "faster_rcnn_vgg17"),
        ('{"network": ["x"]}', None),
        ("{}", "network"),
        ("[]", None),
        ("{", None),
        ("", None),
        (b"\xff\xfe\x00", None),
    ],
)
def test_bad_json_names_the_file_and_the_key(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        load_json(path)
    assert str(caught.value).startswith(f"{path}: ")


# Presets, flags, --set


def test_synthetic_data_gets_the_quick_preset_by_default():
    config = built()
    assert config.data.short_side == QUICK["data.short_side"]
    assert config.train.batch_size == QUICK["train.batch_size"]
    assert config.model.width == get_detector(NETWORK).quick["model.width"]


@pytest.fixture
def vgg16(tmp_path) -> str:
    """A file in VGG16's names."""
    np.savez(tmp_path / "x.npz", conv1_1_weight=np.zeros((64, 3, 3, 3)))
    return str(tmp_path / "x.npz")


def test_other_data_get_the_classic_preset_by_default(vgg16):
    config = built(settings={**VOC, "train.pretrained": vgg16})
    assert config == override(make_config(), {**VOC, "pretrained": vgg16})


def test_classic_preset_on_synthetic_data():
    assert built(preset="classic").data.short_side == 600


@pytest.mark.parametrize("key", sorted(QUICK))
def test_a_flag_wins_over_the_preset_whatever_its_value(key):
    """Even if a flag repeats the default: nothing is silently overwritten."""
    section, _, name = key.partition(".")
    default = getattr(getattr(make_config(), section), name)
    value = (1.0, 2.0, 3.0) if name in ("mean", "std") else default
    config = built(preset="quick", settings={key: value})
    assert getattr(getattr(config, section), name) == value
    assert getattr(getattr(built(f"{key}={value!r}", preset="quick"), section), name) == value


def test_set_wins_over_flags_by_full_and_bare_name():
    for word in ("train.lr=0.5", "lr=0.5"):
        assert built(word, settings={"train.lr": 0.25}).train.lr == 0.5


def test_flags_as_text():
    assert built(settings={"train.lr_decay_epoch": "7,9"}).train.lr_decay_epoch == (7, 9)
    assert built(settings={"train.lr_decay_epoch": "7"}).train.lr_decay_epoch == (7,)


def test_real_data_need_a_root():
    with pytest.raises(ConfigError, match="--data-root"):
        built(settings={"data.dataset": "voc"})
    assert built("root=x", settings={"data.dataset": "voc"}).data.root == "x"


@pytest.mark.parametrize(
    ("network", "word", "stages", "told"),
    [
        (None, "seed=0", 5, "trainable_layers=5"),
        ("fcos_r50_fpn", "body=mobilenet_v3_large", 6, "norm=batch, model.trainable_layers=6"),
        ("fcos_r50_fpn", "trainable_layers=4", 4, "norm=batch"),
    ],
)
def test_without_pretrained_no_layer_is_fixed_and_it_is_told(network, word, stages, told):
    """MobileNetV3 has six stages, the others five; what the user says counts."""
    made = build_config(TrainRequest(network=network, preset="classic", words=(word,)))
    assert made.config.model.trainable_layers == stages
    assert any(f"everything is trained (model.{told})" in line for line in made.notes)


def test_with_pretrained_the_first_layers_stay_fixed(vgg16):
    made = build_config(TrainRequest(preset="classic", settings={"train.pretrained": vgg16}))
    assert made.config.model.trainable_layers == 3
    assert not any("everything is trained" in line for line in made.notes)


@pytest.mark.parametrize("word", ["train.fixed=conv1", pytest.param("fixed=conv1")])
def test_layers_fixed_by_the_user_stay_fixed(word):
    assert built(word, preset="classic").train.fixed == ("conv1",)


def test_layers_fixed_by_the_user_replace_those_of_the_classic_networks(vgg16):
    config = built("fixed=conv1", preset="classic", settings={"train.pretrained": vgg16})
    assert (config.train.fixed, config.model.trainable_layers) == (("conv1",), 5)
    both = ("fixed=conv1", "trainable_layers=4")
    config = built(*both, preset="classic", settings={"train.pretrained": vgg16})
    assert (config.train.fixed, config.model.trainable_layers) == (("conv1",), 4)


def test_a_data_set_chosen_by_bare_name_counts_for_the_preset():
    made = build_config(TrainRequest(words=("dataset=voc", "root=devkit")))
    assert made.config.data.short_side == 600
    assert made.notes[0] == "faster_rcnn_vgg16, preset classic, data set voc"


def test_unknown_network_is_a_config_error():
    for make in (make_config, lambda network: built(network=network)):
        with pytest.raises(ConfigError, match=f"resnet.*{NETWORK}"):
            make("resnet")


# --print-config


def printed(**request: typing.Any) -> dict[str, tuple[str, str]]:
    """Setting -> (value, source), of the lines that print_config has for settings."""
    rows = (re.split(r"  +", line) for line in print_config(TrainRequest(**request)).splitlines())
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def test_the_printed_config_says_what_set_each_value(vgg16):
    flags = {
        "train.lr": 0.5,
        "train.lr_decay_epoch": "2,3",
        "train.momentum": 0.9,
        "data.root": "x",
    }
    found = printed(preset="quick", settings=flags, words=("flip=False", "model.width=0.5"))
    assert found["train.lr"] == ("0.5", "--lr")
    assert found["train.lr_decay_epoch"] == ("2,3", "--lr-decay-epoch")
    assert found["data.root"] == ("x", "--data-root")
    assert found["data.flip"] == ("False", "--set")
    assert found["model.width"] == ("0.5", "--set")
    assert found["train.epochs"] == ("3", "preset quick")
    assert "train.momentum" not in found  # set to its default
    found = printed(settings={**VOC, "train.pretrained": vgg16})
    assert found["train.pretrained"] == (vgg16, "--pretrained")
    found = printed(network="mask_rcnn_r50_fpn")
    assert found["train.weight_decay"] == ("0.0001", "default of mask_rcnn_r50_fpn")
    assert found["model.norm"] == ("group", "training without --pretrained")


def test_the_printed_config_is_the_whole_difference_from_the_defaults():
    """Setting the printed values gives the same configuration."""
    request = {"network": "mask_rcnn_r50_fpn", "preset": "matterport"}
    words = [f"{name}={value}" for name, (value, _) in printed(**request).items()]
    settings = parse_settings(word.replace('=""', "=") for word in words)
    assert override(plain_config("mask_rcnn_r50_fpn"), settings) == built(**request)


def test_the_printed_config_of_a_run_to_resume_or_to_start_from(tmp_path):
    """Their data sets do not exist here."""
    run = RunFolder(tmp_path / "run")
    (run.checkpoints / "step-00000000").mkdir(parents=True)
    settings = {"data.dataset": "voc", "data.root": "gone", "data.short_side": 123}
    run.write_config(
        override(make_config(), {**settings, "model.box_head_dim": 64, "trainable_layers": 5})
    )
    found = printed(resume=str(run.path), settings={"train.epochs": 20})
    assert found["data.short_side"] == ("123", f"run {run.path}")
    assert found["train.epochs"] == ("20", "--epochs")
    with pytest.raises(ConfigError, match="--resume uses the run's own settings"):
        print_config(TrainRequest(resume=str(run.path), words=("lr=1",)))
    found = printed(settings={**VOC, "train.pretrained": str(run.path)}, words=("box_head_dim=32",))
    assert found["data.short_side"] == ("123", "brought by --pretrained")
    assert found["model.box_head_dim"] == ("32", "--set")
    assert "model.trainable_layers" not in found  # each training has its own
    assert found["data.root"] == ("devkit", "--data-root")
    assert sorted(path.name for path in run.path.iterdir()) == ["checkpoints", "config.json"]
