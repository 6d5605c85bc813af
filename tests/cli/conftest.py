"""What the tests of commands may ask for: a command run in this process, from a clean environment."""

import os
import sys
from pathlib import Path

import pytest
from cli_rig import Done, Tapeline

from actors.__main__ import main


@pytest.fixture
def tapeline(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Tapeline:
    """Run a command in this process, from the test's own folder or ``cwd``."""

    def run(*arguments: str | Path, cwd: str | None = None, **env: str) -> Done:
        monkeypatch.chdir(tmp_path if cwd is None else cwd)
        monkeypatch.setenv("COLUMNS", "160")
        for name in list(os.environ):
            if name.startswith("TAPELINE_") or name == "REDIS_URL":
                monkeypatch.delenv(name)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["tapeline", *map(str, arguments)])
        try:
            code = main()
        except SystemExit as e:
            code = int(e.code or 0)
        out, err = capfd.readouterr()
        return Done(code, out, err)

    return run
