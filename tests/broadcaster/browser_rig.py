"""Debian's Chromium, driven by playwright; ``TAPELINE_CHROMIUM`` names another."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser. Missing: the test is skipped on a laptop and fails in CI."""
    path = os.environ.get("TAPELINE_CHROMIUM") or shutil.which("chromium")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        try:
            yield browser
        finally:
            browser.close()
