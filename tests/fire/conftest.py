"""One demo under fire for all tests of a module."""

from collections.abc import Iterator

import pytest
from fire_rig import Ground, fire, ground_of


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with fire(tmp_path_factory.mktemp("fire")) as made, ground_of(made) as it:
        yield it


@pytest.fixture
def whole(ground: Ground) -> Iterator[None]:
    """After the test: no trade lost or repeated, for nobody; every book the true one, everywhere."""
    yield
    try:
        ground.settle()
        ground.check()
    finally:  # the next test wants a market
        ground.made.control.post("resume")
