"""What `make demo` does, up to its result."""

import json
import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.slow
def test_the_quick_preset_learns_its_data_set(tmp_path):
    def run(tool, *words):
        subprocess.run(
            [sys.executable, str(REPO / "tools" / tool), *words], cwd=tmp_path, check=True
        )

    run("train.py", "--out", "runs/demo")
    run("test.py", "runs/demo")
    folder = tmp_path / "runs" / "demo" / "test_2007_test"
    report = json.loads((folder / "report.json").read_text())
    assert report["metrics"]["mAP"] >= 0.80
    assert len(list((folder / "pictures").iterdir())) == 8
