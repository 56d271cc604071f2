"""Fixtures for real data. Tests are skipped if it is missing, and fail in CI."""

import os
from pathlib import Path

import hypothesis
import pytest

# on shared cores, drawing an example may take long without being at fault
hypothesis.settings.register_profile(
    "shared", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("shared")

REPO = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data: MXRCNN_TEST_DATA, or ../shared/data next to the clone."""
    folder = Path(os.environ.get("MXRCNN_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        message = f"real data not found at {folder}; set MXRCNN_TEST_DATA to its folder"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def shared_golden(shared_data) -> Path:
    """The folder of torchvision's outputs, next to the data."""
    return shared_data.parent / "golden"
