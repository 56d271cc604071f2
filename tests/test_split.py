"""Splits: stratified, groups on one side, the same for the same seed whatever the order."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data import open_dataset, split
from mxrcnn.data.groups import find_groups
from mxrcnn.data.records import DataError, DataNotes, Mended
from mxrcnn.data.sequences import copies, sequences
from mxrcnn.data.split import Split, make_split, names_of, read_split, shares_of, write_split
from mxrcnn.data.stratify import Item, stratify
from tests.conftest import REPO
from tests.factories import Picture, make_dataset, make_record, make_voc, noise
from tests.layouts import LAYOUTS
from tests.test_data_formats import cells  # noqa: F401 - a fixture

FIFTH = shares_of(0.2)

#: names -> the patterns of their sequences
SEQUENCES = {
    "numbered files": (["000123", "000124", "000125"], []),
    "one camera": (["img_001", "img_002", "DSC_0003", "DSC_0004", "P1010001", "P1010002"], []),
    "years of VOC": (["2007_000032", "2007_000033", "2008_000002", "2008_000003"], []),
    "named by class": (["beagle_1", "beagle_2", "pug_1", "pug_2", "dog/1", "dog/2"], []),
    "cameras": (["cam3_0001", "cam3_0002", "cam4_0001"], ["cam3_*"]),
    "videos": (["video_12_frame_004", "video_12_frame_008"], ["video_12_frame_*"]),
    "the word frame": (["street_frame1", "street_frame2", "frame1", "frame2"], ["street_frame*"]),
    "folders": (["clip7/00010", "clip7/00020", "clip8/00010"], ["clip7/*"]),
    "something after": (["MVI_20011_img1_left", "MVI_20011_img2_left"], ["MVI_20011_img*_left"]),
    "times of a day": ([f"IMG_20210305_{t}" for t in (101112, 101530, 112233, 154501)], []),
    "copies of frames": (["cam1_1_jpg.rf.0a1b2c3d4e", "cam1_2_jpg.rf.ff00ff00ff"], ["cam1_*_jpg"]),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_which_names_are_sequences(case):
    names, patterns = SEQUENCES[case]
    assert [found.pattern for found in sequences(names)] == patterns


def test_copies_of_one_image():
    names = ["a_jpg.rf.0123456789ab", "b_jpg.rf.0123456789ab", "a_jpg.rf.ba9876543210", "a.rf"]
    assert [(c.pattern, c.members) for c in copies(names)] == [("a_jpg.rf.*", (0, 2))]


def items_of(seed: int, count: int = 200) -> list[Item]:
    """Random items with five labels, of which the fifth is rare; some items hold four images."""
    rng, items = random.Random(seed), []
    for i in range(count):
        labels, size = Counter(), rng.choice([1] * 9 + [4])
        for _ in range(size):
            labels.update([f"c{k}" for k in range(5) if rng.random() < 0.5 / (1 + k)] or [""])
        items.append(Item(f"image{i}", size, labels))
    return items


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shares", [FIFTH, shares_of(0.25, 0.1)], ids=["two sides", "three sides"])
def test_each_side_has_its_share_of_each_class(seed, shares):
    items = items_of(seed)
    sides = stratify(items, shares, seed)
    totals, counts = Counter(), Counter()
    for item, side in zip(items, sides):
        totals.update(item.labels)
        counts.update({(label, side): n for label, n in item.labels.items()})
    assert {*sides} == {*shares}
    for label, total in totals.items():
        for side, share in shares.items():
            assert abs(counts[label, side] - total * share) <= 1, (label, side)
    images = Counter()
    for item, side in zip(items, sides):
        images[side] += item.size
    total = sum(item.size for item in items)
    assert all(abs(images[side] - total * share) <= 7 for side, share in shares.items())


def test_the_rarest_classes_come_first():
    """A class of one image is trained on; one of five has one image in val."""
    items = [Item(f"a{i}", 1, {"common": 1}) for i in range(95)]
    items += [Item(f"b{i}", 1, {"rare": 1, "common": 1}) for i in range(5)]
    items.append(Item("c", 1, {"single": 1, "common": 1}))
    for seed in range(10):
        sides = dict(zip((item.name for item in items), stratify(items, FIFTH, seed)))
        assert sides["c"] == "train"
        assert sum(sides[f"b{i}"] == "val" for i in range(5)) == 1
        assert sum(side == "val" for side in sides.values()) == 20


def test_the_order_of_items_does_not_matter():
    items = items_of(1)
    sides = dict(zip(items_names(items), stratify(items, FIFTH, 3)))
    random.Random(0).shuffle(items)
    assert dict(zip(items_names(items), stratify(items, FIFTH, 3))) == sides
    other = dict(zip(items_names(items), stratify(items, FIFTH, 4)))
    assert sum(other[name] != side for name, side in sides.items()) > 20


def items_names(items: list[Item]) -> list[str]:
    return [item.name for item in items]


def pictures(root, count: int = 12) -> None:
    """A VOC folder of noise, with a twin of every third image: resized and compressed again."""
    kinds = [("dog", 1, 1, 40, 40), ("cat", 9, 9, 60, 60)]
    some = {f"p{i}x": Picture(objects=kinds[: 1 + i % 2]) for i in range(count)}
    make_voc(root, some)
    twins = {f"q{i}x": Picture((60, 75), objects=kinds[:1]) for i in range(0, count, 3)}
    make_voc(root, {**some, **twins})
    folder = root / "VOC2007/JPEGImages"
    for i in range(count):
        grey = np.kron(np.random.default_rng(i).integers(0, 256, (8, 10)), np.ones((10, 10)))
        image = Image.fromarray(grey.astype(np.uint8))
        image.save(folder / f"p{i}x.jpg")
        if not i % 3:
            image.resize((75, 60)).save(folder / f"q{i}x.jpg", quality=60)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The data set of `pictures`, and its settings."""
    root = tmp_path_factory.mktemp("twins")
    pictures(root)
    data = DataConfig("voc", str(root))
    return open_dataset(data, "2007_train"), data


#: what `twins` gives for this seed on every machine
SIDE = {"p10x", "p1x", "p2x", "p4x"}


def test_twins_are_on_one_side_whatever_the_seed(twins):
    dataset, data = twins
    for seed in range(6):
        made = make_split(dataset, data, shares_of(0.25), seed, progress=False)
        val = set(made.sides["val"])
        assert 3 <= len(val) <= 5
        for i in range(0, 12, 3):
            assert (f"p{i}x" in val) == (f"q{i}x" in val)
    assert "8 images that look the same as another, in 4 groups" in split.table(made, dataset)


def test_the_same_split_in_any_order_folder_and_process(twins, tmp_path):
    dataset, data = twins
    wanted = make_split(dataset, data, shares_of(0.25), 0, progress=False)
    shuffled = replace(dataset, records=dataset.records[::-1], class_names=dataset.class_names)
    assert make_split(shuffled, data, shares_of(0.25), 0, progress=False).sides == wanted.sides
    (tmp_path / "other folder").symlink_to(data.root)
    code = (
        "import sys; from mxrcnn.config import DataConfig; from mxrcnn.data import open_dataset\n"
        "from mxrcnn.data.split import make_split, shares_of\n"
        "data = DataConfig('voc', sys.argv[1]); dataset = open_dataset(data, '2007_train')\n"
        "print(*make_split(dataset, data, shares_of(0.25), 0, False).sides['val'])\n"
        "assert 'mxnet' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONHASHSEED": "7"}
    words = [sys.executable, "-c", code, str(tmp_path / "other folder")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert set(done.stdout.split()) == set(wanted.sides["val"]) == SIDE


def many(names: list[str], classes: list[list[int]] | None = None):
    """A data set of images that do not exist, with these names, and the classes of each."""
    records = [make_record(name, path=REPO / f"{name}.jpg") for name in names]
    if classes is not None:
        records = [
            replace(make_record(r.image_id, boxes=[(1, 1, 9, 9)] * len(some), path=r.path),
                    classes=np.array(some, np.int64))
            for r, some in zip(records, classes)
        ]  # fmt: skip
    return make_dataset(records, ("dog", "cat"))


def groups_of(dataset, least: float = 0.2):
    return find_groups(dataset, [None] * len(dataset), Fraction(str(least)), progress=False)


def test_frames_stay_together_unless_that_is_too_much():
    frames = [f"cam{c}_{i:03}" for c in range(8) for i in range(4)]
    found = groups_of(many(frames))
    assert [len(group) for group in found.members()] == [4] * 8
    assert [reason.pattern for reason in found.reasons] == [f"cam{c}_*" for c in range(8)]
    large = groups_of(many([*frames, *(f"cam9_{i:03}" for i in range(16))]))
    assert large.apart == ("cam9_*: 16 of 48 images",)
    assert len(large.members()) == 8 + 16
    # all cats are in one sequence
    kinds = [[1, 2] if name.startswith("cam0") else [1] for name in frames] + [[2]]
    assert groups_of(many([*frames, "x"], kinds)).apart == ("cam0_*: most images of cat",)
    # too few cats for all sides in any case
    kinds = [[1, 2] if name == "cam0_000" else [1] for name in frames]
    assert groups_of(many(frames, kinds)).apart == ()


def test_sequences_joined_by_twins_can_be_too_much():
    frames = [f"cam{c}_{i:03}" for c in range(8) for i in range(4)]
    bits = [np.random.default_rng(i).random(256) < 0.5 for i in range(len(frames))]
    for c in range(1, 8):
        bits[4 * c] = bits[0]  # the first frames of all cameras look the same
    found = find_groups(many(frames), bits, Fraction(1, 5), progress=False)
    assert sorted(map(len, found.members())) == [1] * 24 + [8]
    assert len(found.apart) == 8


@pytest.mark.parametrize(
    ("count", "share", "message"),
    [
        (1, 0.5, "one image .*val 0.5 leave no image for the side (train|val)"),
        (
            4,
            0.1,
            "4 images .* shares .*, val 0.1 leave no image for the side val: choose others",
        ),
        (2, 0.9, "2 images .*val 0.9 leave no image for the side train"),
    ],
)
def test_a_side_without_images_is_an_error(count, share, message, monkeypatch):
    monkeypatch.setattr(split, "fingerprints", lambda records, *_: [None] * len(records))
    dataset = many([f"x{i}" for i in range(count)])
    with pytest.raises(ConfigError, match=message):
        make_split(dataset, DataConfig(), shares_of(share), 0)


def test_images_without_objects_are_stratified(monkeypatch):
    monkeypatch.setattr(split, "fingerprints", lambda records, *_: [None] * len(records))
    kinds = [[]] * 20 + [[1]] * 30
    dataset = many([f"x{i}" for i in range(50)], kinds)
    made = make_split(dataset, DataConfig(), FIFTH, 0)
    counts = split.count_side(made.take(dataset, "val"))
    assert (counts["images"], counts["images without objects"]) == (10, 4)
    text = split.table(made, dataset)
    assert "without objects" in text
    assert "val has no object of 1 classes: cat" in text
    empty = make_split(replace(dataset, records=dataset.records[:20]), DataConfig(), FIFTH, 0)
    assert len(empty.sides["val"]) == 4


@pytest.mark.parametrize("shares", [(0,), (1,), (1.5,), (-0.1,), (float("nan"),), (0.5, 0.5)])
def test_shares(shares):
    with pytest.raises(ConfigError, match="above 0 and together below 1"):
        shares_of(*shares)
    assert shares_of(0.2, 0.1) == {
        "train": Fraction(7, 10),
        "val": Fraction(1, 5),
        "test": Fraction(1, 10),
    }


def test_names_are_the_same_in_any_folder():
    assert names_of(many(["a/x", "b/y"]).records) == ["x", "y"]
    assert names_of(many(["a/x", "b/x"]).records) == ["a/x.jpg", "b/x.jpg"]
    records = many(["a/x", "b/x", "b/x"]).records
    again = [replace(record, image_id=i) for i, record in enumerate(records)]
    assert names_of(again) == ["a/x.jpg", "b/x.jpg (1)", "b/x.jpg (2)"]


def test_a_stored_split(twins, tmp_path):
    dataset, data = twins
    made = make_split(dataset, data, FIFTH, 5, progress=False)
    write_split(made, dataset, tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == made
    document = json.loads((tmp_path / "split.json").read_text())
    assert document["counts"]["val"]["images"] == len(made.sides["val"])
    images = [record.path for record in dataset.records]
    notes = DataNotes([Mended("clipped", image, "") for image in images], ["bad"])
    dataset = replace(dataset, notes=notes)
    sides = [made.take(dataset, side) for side in ("train", "val")]
    for side in sides:
        assert [note.image for note in side.notes.mended] == [r.path for r in side.records]
    assert [len(side.notes.skipped) for side in sides] == [1, 0]
    assert sum(map(len, sides)) == len(dataset)
    less = replace(dataset, records=[r for r in dataset.records if r is not sides[1].records[0]])
    gone = sides[1].records[0].path.stem
    line = f"1 images of the stored split are not there: {gone}"
    assert line in made.take(less, "val").notes.lines()
    more = replace(dataset, records=(*dataset.records, make_record("new", path=REPO / "new.jpg")))
    with pytest.raises(DataError, match=r"new\.jpg: 1 images .* on no side of the stored split: "):
        made.take(more, "train")
    with pytest.raises(DataError, match="no image of the stored split's side val is left"):
        made.take(replace(dataset, records=sides[0].records), "val")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format=2),
        lambda d: d.pop("sides"),
        lambda d: d.update(sides=[]),
        lambda d: d["sides"].pop("val"),
        lambda d: d["sides"].update(val=d["sides"]["train"]),
        lambda d: d.update(groups=[1]),
    ],
)
def test_a_broken_stored_split(change, tmp_path):
    dataset = many(["a", "b"])
    made = Split("x", 0, {"train": "0.5", "val": "0.5"}, {"train": ("a",), "val": ("b",)})
    document = made.to_json(dataset)
    change(document)
    (tmp_path / "split.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"split\.json: "):
        read_split(tmp_path / "split.json")


def test_an_image_that_cannot_be_decoded(tmp_path):
    make_voc(tmp_path, {"a": Picture(), "b": Picture()})
    noise((80, 100)).save(tmp_path / "VOC2007/JPEGImages/b.jpg")
    path = tmp_path / "VOC2007/JPEGImages/b.jpg"
    path.write_bytes(path.read_bytes()[:-2000])
    data = DataConfig("voc", str(tmp_path))
    with pytest.raises(DataError, match=r"b\.jpg"):
        make_split(open_dataset(data, "2007_train"), data, shares_of(0.5), 0, progress=False)


def test_the_kind_of_data_set_does_not_matter(cells, tmp_path):  # noqa: F811
    """The same images have the same split, though kinds differ in paths, ids and class order."""
    found = []
    for layout in ("voc", "coco", "yolo", "labelme"):
        kind, imageset, write, _ = LAYOUTS[layout]
        write(replace(cells, records=cells.records[:12]), tmp_path / layout)
        data = DataConfig(kind, str(tmp_path / layout))
        found.append(
            make_split(open_dataset(data, imageset), data, shares_of(0.25), 1, False).sides
        )
    assert found == [found[0]] * 4
