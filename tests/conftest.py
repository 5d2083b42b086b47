"""What many tests share: a tiny network, small clips, fetched assets, one Ray session."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from extpose.config import ModelConfig
from extpose.recipes import TINY
from extpose.schema import Clip
from tests.clips import random_clip
from tests.s3_server import S3Server, s3_server, use_s3

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For `-n`: all tests with Ray in one process, which shares one local Ray, and first.

    The long ones then one by one, the others a file at a time, which shares its fixtures.
    """
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        name = item.path.as_posix()
        if item.get_closest_marker("ray"):
            name = "ray"
        elif item.get_closest_marker("slow"):
            name = item.nodeid
        item.add_marker(pytest.mark.xdist_group(name))
    if "PYTEST_XDIST_WORKER" in os.environ:
        kinds = ("ray", "slow")
        items.sort(key=lambda item: [not item.get_closest_marker(kind) for kind in kinds])


@pytest.fixture
def make_clip() -> Callable[..., Clip]:
    """The factory `random_clip(seed, num_frames, *, labelled, body, crop)` of `tests/clips.py`."""
    return random_clip


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    """The smallest network that has every part."""
    return replace(
        TINY,
        image_size=64,
        width=48,
        depth=2,
        max_frames=4,
        head_width=48,
        head_depth=1,
        head_num_heads=2,
        head_dim=24,
        head_mlp_width=96,
    )


@pytest.fixture(scope="session")
def s3_session() -> Iterator[S3Server]:
    """One S3 server for the whole test run, in the environment of this process."""
    with s3_server() as server:
        use_s3(server.url)
        yield server


@pytest.fixture
def s3(s3_session: S3Server) -> S3Server:
    """The server, without faults."""
    s3_session.faults.clear()
    s3_session.requests.clear()
    return s3_session


@pytest.fixture(scope="session")
def ray_local(s3_session: S3Server) -> Iterator[None]:
    """One local Ray for the whole test run; its workers know the S3 server."""
    from pipelines.runtime import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """`extpose.assets.fetch`, but a test that cannot have its file is skipped with the reason."""
    from extpose.assets import fetch
    from extpose.errors import AssetError

    def fetch_or_skip(name: str) -> Path:
        try:
            return fetch(name)
        except AssetError as error:
            pytest.skip(f"{name}: {error}")

    return fetch_or_skip
