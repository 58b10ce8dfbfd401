import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

# The user's cache folder is not for tests, and parallel workers would share it.
os.environ["MEANFIELD_CACHE"] = "off"

# Most of the suite's time went into optimising programs that run once. They compute the
# same, to rounding; MEANFIELD_TESTS=optimized compiles as users do, and so does what is
# marked `optimized`.
UNOPTIMIZED = "jax_disable_most_optimizations"
QUICKLY = os.environ.get("MEANFIELD_TESTS") != "optimized"
if QUICKLY and jax.__version_info__ < (0, 11):  # Later ones do not know this flag.
    # One module for the code of a program: to split it pays for large programs alone.
    flags = (
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
    os.environ["XLA_FLAGS"] = " ".join(
        [os.environ.get("XLA_FLAGS", ""), *flags]
    ).strip()


def compile_quickly(quickly: bool) -> None:
    """Set how this process, the processes it starts and notebooks compile."""
    jax.config.update(UNOPTIMIZED, quickly)
    os.environ[UNOPTIMIZED.upper()] = str(int(quickly))


compile_quickly(QUICKLY)

# Each compiled program of JAX on a CPU holds some memory maps. Linux allows a process
# 65,530 of them, and the compiler dies of a segmentation fault at the next. To count
# them takes tens of milliseconds.
MOST_MAPS = 40_000
TESTS_BETWEEN_COUNTS = 20
tests_run = itertools.count(1)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data sets; the tests that need it skip without it."""
    folder = os.environ.get("MEANFIELD_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set MEANFIELD_DATA to a folder with real data sets")
    return Path(folder)


@pytest.fixture(autouse=True)
def _compiled_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile without optimisation, but for tests marked `optimized`."""
    as_users_do = request.node.get_closest_marker("optimized") is not None
    compile_quickly(QUICKLY and not as_users_do)
    yield
    compile_quickly(QUICKLY)


@pytest.fixture(autouse=True)
def _compiled_programs_are_dropped() -> Iterator[None]:
    """Forget what was compiled before a long test process runs out of memory maps."""
    yield
    if next(tests_run) % TESTS_BETWEEN_COUNTS == 0:
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPS:
            jax.clear_caches()
