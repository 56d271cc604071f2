"""--skip-bad decodes each image once, and again only if its file or the settings changed."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from mxrcnn.config import DataConfig
from mxrcnn.data import decodable, open_dataset
from mxrcnn.data.transforms import read_pixels
from tests.factories import Picture, make_voc, noise, truncate


@pytest.fixture
def data(tmp_path):
    """A set of two good images and a broken one, with old modification times."""
    root = make_voc(tmp_path / "voc", {name: Picture() for name in ("a", "b", "bad")})
    truncate(root / "VOC2007/JPEGImages/bad.jpg")
    for path in root.glob("*/JPEGImages/*"):
        os.utime(path, (10, 10))
    return DataConfig(dataset="voc", root=str(root), skip_bad=True)


@pytest.fixture
def tried(monkeypatch):
    """The stems of the images that were decoded."""
    stems = []

    def read(record, data):
        stems.append(record.path.stem)
        return read_pixels(record, data)

    monkeypatch.setattr(decodable, "read_pixels", read)
    return stems


def opened(data, tmp_path, tried):
    """(ids, lines about skipped images, stems of decoded images)."""
    tried.clear()
    dataset = open_dataset(data, "2007_train", tmp_path / "run" / "decoded.json")
    ids = [record.image_id for record in dataset.records]
    return ids, dataset.notes, sorted(tried)


def image(data, name):
    return f"{data.root}/VOC2007/JPEGImages/{name}.jpg"


def test_verdicts_are_remembered(data, tmp_path, tried):
    ids, notes, decoded = opened(data, tmp_path, tried)
    assert (ids, decoded) == (["a", "b"], ["a", "b", "bad"])
    assert len(notes.skipped) == 1
    assert "bad.jpg: not a readable image" in notes.skipped[0]
    again, more, decoded = opened(data, tmp_path, tried)
    assert (again, more.skipped, decoded) == (ids, notes.skipped, [])
    assert "3 images were decoded at an earlier start and not again" in more.lines()
    moved = shutil.copytree(data.root, tmp_path / "moved")
    assert opened(replace(data, root=str(moved)), tmp_path, tried)[2] == []
    assert opened(data, tmp_path / "other run", tried)[2] == ["a", "b", "bad"]


def a_new_time(data, path):
    os.utime(image(data, "a"), (11, 11))
    return data


def other_bytes(data, path):
    noise((80, 100), seed=3).save(image(data, "a"))
    os.utime(image(data, "a"), (10, 10))
    return data


def another_size(data, path):
    """The image size that an annotation states, as COCO files do."""
    verdicts = json.loads(path.read_text())
    verdicts["images"]["VOC2007/JPEGImages/a.jpg"][2] += 1
    path.write_text(json.dumps(verdicts))
    return data


def a_verdict_of_another_form(data, path):
    verdicts = json.loads(path.read_text())
    verdicts["images"]["VOC2007/JPEGImages/a.jpg"][4] = 7
    path.write_text(json.dumps(verdicts))
    return data


@pytest.mark.parametrize(
    "change", [a_new_time, other_bytes, another_size, a_verdict_of_another_form]
)
def test_a_file_that_changed_is_decoded_again(data, tmp_path, tried, change):
    opened(data, tmp_path, tried)
    data = change(data, tmp_path / "run/decoded.json")
    assert opened(data, tmp_path, tried)[2] == ["a"]
    assert opened(data, tmp_path, tried)[2] == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"images": {}}', '{"how": 1, "images": 2}'])
def test_a_broken_file_counts_as_nothing_known(data, tmp_path, tried, content):
    opened(data, tmp_path, tried)
    (tmp_path / "run/decoded.json").write_text(content)
    assert opened(data, tmp_path, tried)[2] == ["a", "b", "bad"]


def test_other_settings_and_another_pillow_decode_anew(data, tmp_path, tried, monkeypatch):
    opened(data, tmp_path, tried)
    assert opened(replace(data, max_image_pixels=0), tmp_path, tried)[2] == ["a", "b", "bad"]
    monkeypatch.setattr("PIL.__version__", "1.0")
    assert opened(replace(data, max_image_pixels=0), tmp_path, tried)[2] == ["a", "b", "bad"]


def test_a_file_of_this_second_is_not_trusted(data, tmp_path, tried):
    """It may change again, with the same size and time."""
    os.utime(image(data, "b"))
    opened(data, tmp_path, tried)
    assert opened(data, tmp_path, tried)[2] == ["b"]


def test_what_was_decoded_before_an_interruption_is_kept(data, tmp_path, tried, monkeypatch):
    def read(record, data):
        if record.path.stem == "bad":
            raise KeyboardInterrupt
        return read_pixels(record, data)

    with monkeypatch.context() as patched:
        patched.setattr(decodable, "read_pixels", read)
        with pytest.raises(KeyboardInterrupt):
            opened(data, tmp_path, tried)
    assert opened(data, tmp_path, tried)[2] == ["bad"]


def test_a_run_folder_that_cannot_be_written_costs_only_time(data, tmp_path, tried):
    (tmp_path / "run").write_text("a file")
    with pytest.warns(UserWarning, match=r"decoded\.json: results of decoding are not stored"):
        assert opened(data, tmp_path, tried)[0] == ["a", "b"]
