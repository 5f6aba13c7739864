"""The package's front door: its names are there, and opening it loads nothing."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import ringrift_sync_dagster


def modules_after(statement: str) -> list[str]:
    """Give the modules that a fresh interpreter has after the statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_the_package_imports_nothing_of_weight() -> None:
    loaded = modules_after("import ringrift_sync_dagster")
    assert [name for name in loaded if name.startswith("ringrift")] == ["ringrift_sync_dagster"]
    assert not {"dagster", "pydantic", "yaml", "sqlalchemy", "aiohttp", "requests", "sqlite3"} & set(loaded)


def test_importing_the_settings_package_imports_no_settings() -> None:
    assert not {"pydantic", "pydantic_settings", "jwt", "yaml"} & set(
        modules_after("import ringrift_sync_dagster.settings.clock")
    )


@pytest.mark.parametrize("name", [name for name in ringrift_sync_dagster.__all__ if name != "__version__"])
def test_every_public_name_is_there(name: str) -> None:
    assert callable(getattr(ringrift_sync_dagster, name))
    assert name in dir(ringrift_sync_dagster)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ringrift_sync_dagster.nothing


def test_the_version_is_the_one_installed_if_it_is_installed() -> None:
    try:
        installed = version("ringrift-sync-dagster")
    except ModuleNotFoundError:
        pytest.skip("the package runs from its checkout")
    assert ringrift_sync_dagster.__version__ == installed
