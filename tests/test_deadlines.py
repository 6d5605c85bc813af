"""A test that waits for ever fails; it does not hang the run."""

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).with_name("conftest.py")

HANGS = """
import anyio, pytest

@pytest.mark.timeout(4)
async def test_that_hangs():
    await anyio.sleep_forever()

async def test_that_is_well():
    await anyio.sleep(0)
"""


def test_an_async_test_that_hangs_fails_where_it_hung(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_hangs.py").write_text(HANGS)
    options = [f"pythonpath={CONFTEST.parent}", "anyio_mode=auto", "timeout=60"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *(word for option in options for word in ("-o", option))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "await anyio.sleep_forever()" in done.stdout
