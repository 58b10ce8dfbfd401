import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; the tests that need it skip without it."""
    folder = os.environ.get("MEANFIELD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set MEANFIELD_DATA to a folder with real data sets")
    return Path(folder)
