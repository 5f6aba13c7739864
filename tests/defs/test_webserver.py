"""What a person does in the UI, sent to a real webserver as the UI sends it."""

import time
from collections.abc import Callable
from typing import Any

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect

RUN_SECONDS = 90
Ask = Callable[..., dict[str, Any]]
LOCATION = """{repositoriesOrError {... on RepositoryConnection {nodes {name location {name}}}}}"""
ADD_NODE = """mutation($name: String!, $key: String!, $repo: RepositorySelector!) {
  addDynamicPartition(partitionsDefName: $name, partitionKey: $key, repositorySelector: $repo) {__typename}}"""
LAUNCH = """mutation($parameters: ExecutionParams!) {launchPipelineExecution(executionParams: $parameters) {
  __typename ... on LaunchRunSuccess {run {runId}} ... on PythonError {message}}}"""
STATUS = """query($id: ID!) {runOrError(runId: $id) {... on Run {status}}}"""
HISTORY = """{assetOrError(assetKey: {path: ["games"]}) {... on Asset {assetMaterializations(limit: 100) {
  partition runId metadataEntries {label ... on IntMetadataEntry {intValue}}}}}}"""


def launch(graphql: Ask, partition: str) -> str:
    """Materialize one partition as the button does; give the run's id when the run has ended well."""
    (repository,) = graphql(LOCATION)["repositoriesOrError"]["nodes"]
    where = {"repositoryName": repository["name"], "repositoryLocationName": repository["location"]["name"]}
    graphql(ADD_NODE, name="nodes", key=partition.split("|")[1], repo=where)
    parameters = {
        "mode": "default",
        "runConfigData": {},
        "selector": {**where, "pipelineName": "games_job", "assetSelection": [{"path": ["games"]}]},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
    }
    launched = graphql(LAUNCH, parameters=parameters)["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    run_id = str(launched["run"]["runId"])
    limit = time.monotonic() + RUN_SECONDS
    while (status := graphql(STATUS, id=run_id)["runOrError"]["status"]) not in {"SUCCESS", "FAILURE"}:
        assert time.monotonic() < limit, status
        time.sleep(0.2)
    assert status == "SUCCESS"
    return run_id


def test_a_partition_that_is_materialized_in_the_ui_stands_in_the_history_of_the_asset(
    graphql: Ask, shared_cluster: EmbeddedCluster
) -> None:
    path = shared_cluster.node_root("runpod-a1") / "data" / "games" / "selfplay_hexagonal_4p.db"
    with Recorder(path, Dialect.V18) as recorder:
        recorder.record_all([make_game(f"webserver-{number}", "hexagonal_4p") for number in range(2)])

    run_id = launch(graphql, "hexagonal_4p|runpod-a1")

    history = graphql(HISTORY)["assetOrError"]["assetMaterializations"]
    (event,) = [event for event in history if event["runId"] == run_id]
    assert event["partition"] == "hexagonal_4p|runpod-a1"
    numbers = {entry["label"]: entry.get("intValue") for entry in event["metadataEntries"]}
    assert numbers["games_new"] == numbers["canonical_games"] == 2
