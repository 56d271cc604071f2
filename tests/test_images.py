"""Image files under Pillow's process-wide settings, which are the user's own."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageFile

from mxrcnn.config import ConfigError, DataConfig
from mxrcnn.data import open_dataset
from mxrcnn.data.check import check_data
from mxrcnn.data.images import decode_image, image_size, opened, read_image
from mxrcnn.data.pictures import decode_picture
from mxrcnn.data.pictures import read_pixels as read_picture
from mxrcnn.data.records import DataError
from mxrcnn.data.transforms import load_sample
from tests.factories import Picture, make_record, make_voc, noise, tiny_config, truncate


@pytest.fixture
def cut(tmp_path):
    """A truncated picture."""
    noise((64, 64)).save(tmp_path / "cut.png")
    return truncate(tmp_path / "cut.png")


# Truncated images


@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_for_truncated_images_is_put_back(cut, monkeypatch, flag):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", flag)
    for read in (image_size, read_image):
        if read is read_image:
            with pytest.raises(DataError, match=r"cut\.png: not a readable image"):
                read(cut)
        else:
            assert read(cut) == (64, 64)
        assert ImageFile.LOAD_TRUNCATED_IMAGES is flag


def test_the_flag_stays_off_while_any_reader_needs_it(cut, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first = opened(cut)
    image = first.__enter__()
    with opened(cut):
        pass
    with pytest.raises(OSError, match="truncated"):
        image.load()
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    first.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    with opened(cut):
        ImageFile.LOAD_TRUNCATED_IMAGES = True  # a package is imported meanwhile
    assert ImageFile.LOAD_TRUNCATED_IMAGES


def test_no_thread_fills_truncated_images(cut, tmp_path, monkeypatch):
    """Even if a thread that is done restores the flag while others still decode."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    noise((8, 8)).save(tmp_path / "good.png")

    def filled(turn):
        try:
            read_image(cut if turn % 2 else tmp_path / "good.png")
        except DataError:
            return False
        return bool(turn % 2)

    with ThreadPoolExecutor(8) as pool:
        assert not any(pool.map(filled, range(400)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


# Limits


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "ppm", "gif", "tif", "webp"])
def test_the_limit_of_pixels_is_ours(tmp_path, monkeypatch, ending):
    """Pillow's limit belongs to the process: it is neither read nor changed."""
    path = tmp_path / f"a.{ending}"
    noise((40, 50)).save(path)
    for read in (image_size, read_image):
        with pytest.raises(DataError, match=r"50 x 40 pixels: .* 1999 .*--set max_image_pix"):
            read(path, max_pixels=1999)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    if ending in ("png", "jpg", "bmp", "ppm"):
        for limit in (0, 2000):
            assert image_size(path, max_pixels=limit) == (40, 50)
            assert read_image(path, max_pixels=limit).shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 700


def test_the_limit_that_pillow_has_for_some_formats_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise Image.DecompressionBombError("Image size (2000 pixels) exceeds limit")

    noise((40, 50)).save(tmp_path / "a.tif")
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(DataError, match=r"a\.tif: .*Pillow's limit .*PIL\.Image\.MAX_IMAGE_PIXELS"):
        read_image(tmp_path / "a.tif")


def test_the_limit_is_a_setting_of_all_readers(tmp_path):
    root = make_voc(tmp_path, {"a": Picture((80, 100))})
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 80, "width": 100}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [],
    }
    (root / "a.json").write_text(json.dumps(coco))
    for kind, imageset in (("voc", "2007_train"), ("coco", "a.json")):
        settings = {"dataset": kind, "root": str(root)}
        data = DataConfig(**settings, max_image_pixels=7999)
        with pytest.raises(DataError, match="max_image_pixels"):
            open_dataset(data, imageset)
        record = open_dataset(DataConfig(**settings, max_image_pixels=8000), imageset)[0]
        with pytest.raises(DataError, match="max_image_pixels"):
            load_sample(record, data)
    del coco["images"][0]["height"]  # the size is read from the file then
    (root / "a.json").write_text(json.dumps(coco))
    with pytest.raises(DataError, match="max_image_pixels"):
        open_dataset(data, "a.json")
    make_voc(tmp_path, {"small": Picture((20, 30)), "a": Picture((80, 100))})
    config = tiny_config(data__dataset="voc", data__root=str(root), data__max_image_pixels=7999)
    (fault,) = (f for f in check_data(config, ["2007_train"], False).faults if f.level == "error")
    assert "max_image_pixels" in fault.detail


def test_the_limit_holds_for_pictures_to_predict(tmp_path):
    noise((40, 50)).save(tmp_path / "a.png")
    for picture in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        assert read_picture(picture, max_pixels=2000).shape == (40, 50, 3)
        with pytest.raises(DataError, match="over the limit of 1999"):
            read_picture(picture, max_pixels=1999)


def test_a_limit_below_zero_is_refused():
    with pytest.raises(ConfigError, match="max_image_pixels=-1"):
        DataConfig(max_image_pixels=-1)


# Memory


def test_out_of_memory_is_not_a_bad_image(tmp_path, monkeypatch):
    """With skip_bad, good images would be left out."""
    root = make_voc(tmp_path, {"a": Picture(), "b": Picture()})

    def no_room(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(ImageFile.ImageFile, "load", no_room)
    path = root / "VOC2007/JPEGImages/a.jpg"
    reads = (
        lambda: read_image(path),
        lambda: read_picture(path.read_bytes()),
        lambda: load_sample(make_record(path=path), DataConfig()),
        lambda: open_dataset(
            DataConfig(dataset="voc", root=str(root), skip_bad=True), "2007_train"
        ),
    )
    for read in reads:
        with pytest.raises(MemoryError, match=r": not enough memory to read it \(no room\)"):
            read()


def test_pixels_are_those_of_pillow(tmp_path):
    """The file is opened without Image.open, which has its own limit."""
    picture = noise((31, 45))
    for ending in ("png", "jpg", "bmp", "ppm", "tif", "webp"):
        picture.save(tmp_path / f"a.{ending}")
        with Image.open(tmp_path / f"a.{ending}") as image:
            np.testing.assert_array_equal(read_image(tmp_path / f"a.{ending}"), np.asarray(image))


# Reduced size


def test_a_large_jpeg_is_decoded_at_reduced_size(tmp_path):
    """At the least of 1/2, 1/4, 1/8 that holds the size needed, if it divides both sides."""
    photo = Image.linear_gradient("L").resize((208, 104)).convert("RGB")  # (width, height)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    photo.save(tmp_path / "plain.jpg")
    photo.save(tmp_path / "turned.jpg", exif=sideways)
    photo.save(tmp_path / "a.png")
    photo.crop((0, 0, 208, 103)).save(tmp_path / "odd.jpg")
    photo.save(tmp_path / "many.jpg", "MPO", save_all=True, append_images=[photo])
    for name, upright, needed, factor in (
        ("plain.jpg", True, (53, 53), 1),
        ("plain.jpg", True, (52, 105), 1),
        ("plain.jpg", True, (52, 104), 2),
        ("plain.jpg", True, (27, 52), 2),
        ("plain.jpg", True, (26, 52), 4),
        ("plain.jpg", True, (1, 1), 8),
        ("odd.jpg", True, (1, 1), 1),
        ("many.jpg", True, (26, 52), 4),
        ("turned.jpg", True, (52, 26), 4),
        ("turned.jpg", True, (26, 52), 2),
        ("turned.jpg", False, (26, 52), 4),
        ("a.png", True, (1, 1), 1),
    ):
        path, asked = tmp_path / name, []

        def need(*size, wanted=needed, asked=asked):
            asked.append(size)
            return wanted

        found, whole = decode_image(path, upright, needed=need), read_image(path, upright)
        assert found.size == whole.shape[:2]
        assert set(asked) <= {found.size}
        assert found.reduced == factor, (name, needed)
        rows, columns = (side // factor for side in found.size)
        assert found.pixels.shape == (rows, columns, 3)
        means = whole.astype(float).reshape(rows, factor, columns, factor, 3).mean((1, 3))
        assert np.abs(means - found.pixels).max() < 4
        same = decode_picture(path.read_bytes(), upright, needed=need)
        np.testing.assert_array_equal(same.pixels, found.pixels)
