"""What several test files share."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from repository import SHARED_DATA
from small_configs import write_tiny

torch.set_num_threads(1)
# Where the tests were started with Ctrl-C ignored (in the background, say), their child processes still hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Tokenised files of tests do not land in the user's cache."""
    os.environ["UNROLLED_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _float64(request):
    """Tests marked `float64` compute in double precision, from a fixed seed."""
    if request.node.get_closest_marker("float64") is None:
        yield
        return
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets, where they are at hand."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real data sets in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One headless Chromium for all tests of pages."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for switch in (
        *(
            "headless=new",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "disable-quic",
            "no-first-run",
        ),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    session.get("about:blank")  # or the browser's own first page goes on loading into the first test
    yield session
    session.quit()


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A config that trains in a second or two; its runs land beside it."""
    return write_tiny(tmp_path)
