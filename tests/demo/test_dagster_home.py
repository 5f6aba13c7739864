"""Each cluster has a history of its own, configured as the shipped one."""

from __future__ import annotations

from pathlib import Path

import yaml

from ringrift_sync_dagster.demo.dagster_home import USUAL_BASE, dagster_environment
from ringrift_sync_dagster.demo.processes import CHECKOUT


def test_another_folder_has_a_history_of_its_own_that_is_configured_as_the_shipped_one(tmp_path: Path) -> None:
    home = Path(dagster_environment(tmp_path)["DAGSTER_HOME"])
    shipped, written = (yaml.safe_load((one / "dagster.yaml").read_text()) for one in (CHECKOUT, home))

    assert home.parent == tmp_path
    assert written["storage"]["sqlite"]["base_dir"] == str(home / "storage")
    assert written["compute_logs"]["config"]["base_dir"] == str(home / "compute_logs")
    assert written["local_artifact_storage"]["config"]["base_dir"] == str(home)
    paths = {"storage", "compute_logs", "local_artifact_storage"}
    assert {name: value for name, value in written.items() if name not in paths} == {
        name: value for name, value in shipped.items() if name not in paths
    }


def test_the_usual_folder_has_the_history_of_the_checkout() -> None:
    assert dagster_environment(USUAL_BASE)["DAGSTER_HOME"] == str(CHECKOUT)
