"""Groups of images that look the same: correct, concise, and found with little memory."""

import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mxrcnn.data.check import twins
from mxrcnn.data.check.faults import alike_images
from mxrcnn.data.check.objects import Split, network_objects
from mxrcnn.data.check.twins import alike_groups
from tests.factories import make_dataset, make_record, tiny_config

BITS = twins.BITS**2


def flipped(bits, count, rng):
    """The bits, with `count` of them flipped."""
    out = bits.copy()
    out[rng.choice(BITS, count, replace=False)] ^= True
    return out


def made_up(rng, count):
    """Fingerprints of pictures. Many look alike, also in chains; some have no fingerprint."""
    prints = list(rng.random((count, BITS)) < 0.5)
    for i in range(1, count):
        kind = rng.integers(0, 4)
        source = prints[rng.integers(0, i)]
        if kind == 0:
            prints[i] = None
        elif kind < 3 and source is not None:
            prints[i] = flipped(source, rng.choice([0, 20, twins.ALIKE, twins.ALIKE + 1]), rng)
    return prints


def components(prints):
    """The slow reference: every pair is compared, and links are followed one by one."""
    links = {
        i: [
            j
            for j, other in enumerate(prints)
            if bits is not None and other is not None and (bits != other).sum() <= twins.ALIKE
        ]
        for i, bits in enumerate(prints)
    }
    groups, seen = [], set()
    for start in links:
        group, waiting = set(), [start]
        while waiting:
            i = waiting.pop()
            if i not in group:
                group.add(i)
                waiting += links[i]
        if not group <= seen and len(group) > 1:
            groups.append(sorted(group))
        seen |= group
    return groups


@pytest.mark.parametrize("block", [1, 7, 64, 2048])
def test_groups_are_the_connected_components(monkeypatch, block):
    monkeypatch.setattr(twins, "_BLOCK", block)
    for seed in range(5):
        prints = made_up(np.random.default_rng(seed), 60)
        expected = components(prints)
        assert len(expected) > 2
        assert [group.tolist() for group in alike_groups(prints)] == expected


@pytest.mark.parametrize("prints", [[], [None, None], [np.zeros(BITS, bool)]])
def test_no_groups(prints):
    assert alike_groups(prints) == []


def test_a_video_is_one_group_in_little_memory():
    """5,000 drifting frames: 12 million pairs in the worst case, and none is stored."""
    rng = np.random.default_rng(0)
    frames = [rng.random(BITS) < 0.5]
    for _ in range(4999):
        frames.append(flipped(frames[-1], 1, rng))
    tracemalloc.start()
    start = time.process_time()
    (group,) = alike_groups(frames)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert group.tolist() == list(range(5000))
    assert peak < 100e6
    assert seconds < 20


def split(name, prints):
    records = [make_record(f"{i}", path=Path(f"{name}/{i}.jpg")) for i in range(len(prints))]
    dataset = make_dataset(records)
    objects = network_objects(records, ("dog",), ("dog",), tiny_config())
    return Split(replace(dataset, name=name), list(prints), objects)


def test_a_group_is_one_fault():
    """Four hundred similar frames used to give 79,800 faults."""
    rng = np.random.default_rng(0)
    frame, pair, leaked = rng.random((3, BITS)) < 0.5
    train = split("train", [frame] * 400 + [pair, leaked])
    test = split("test", [leaked, frame, flipped(leaked, 3, rng), frame])
    alone = list(alike_images([split("train", [frame] * 400)], False))
    assert [(fault.kind, fault.detail) for fault in alone] == [
        (
            "same image",
            "one of 400 alike (400 of train): train/1.jpg, train/2.jpg, train/3.jpg, ...",
        )
    ]
    frames, three = alike_images([train, test], False)
    assert (frames.kind, frames.file, frames.other) == ("leak", "train/0.jpg", "test/1.jpg")
    assert frames.detail.startswith("one of 402 alike (400 of train, 2 of test): test/1.jpg, train")
    assert len(frames.members) == 402
    assert three.members == (
        ("train", "train/401.jpg"),
        ("test", "test/0.jpg"),
        ("test", "test/2.jpg"),
    )
    assert three.detail == "one of 3 alike (1 of train, 2 of test): test/0.jpg, test/2.jpg"
    (two,) = alike_images([split("train", [pair, flipped(pair, 9, rng)])], False)
    assert two.detail == "like train/1.jpg (9 of 256 bits differ)"
