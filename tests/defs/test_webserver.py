"""What a person does in the UI, sent to a real webserver as the UI sends it."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.exports import write_model
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


GRAPH = """{assetNodes {assetKey {path} dependencyKeys {path} partitionDefinition {name dimensionTypes {name}}}}"""
ORDER = """query($key: AssetKeyInput!) {assetNodeOrError(assetKey: $key) {... on AssetNode {
  partitionKeysByDimension {name partitionKeys}}}}"""
STATES = """query($key: AssetKeyInput!) {assetNodeOrError(assetKey: $key) {... on AssetNode {assetPartitionStatuses {
  ... on MultiPartitionStatuses {ranges {primaryDimStartKey primaryDimEndKey secondaryDim {
    ... on DefaultPartitionStatuses {materializedPartitions}}}}}}}}"""


def launch(graphql: Ask, partition: str, data_type: str = "games", end: str = "") -> str:
    """Materialize one partition (or a range up to ``end``) as the button does; give the id of a run that ended well."""
    (repository,) = graphql(LOCATION)["repositoriesOrError"]["nodes"]
    where = {"repositoryName": repository["name"], "repositoryLocationName": repository["location"]["name"]}
    for key in (partition, end) if end else (partition,):
        graphql(ADD_NODE, name="nodes", key=key.split("|")[1], repo=where)
    tags = {"dagster/asset_partition_range_start": partition, "dagster/asset_partition_range_end": end}
    chosen = tags if end else {"dagster/partition": partition}
    parameters = {
        "mode": "default",
        "runConfigData": {},
        "selector": {**where, "pipelineName": f"{data_type}_job", "assetSelection": [{"path": [data_type]}]},
        "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in chosen.items()]},
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


def test_the_graph_shows_what_is_made_of_what(graphql: Ask) -> None:
    nodes = {node["assetKey"]["path"][0]: node for node in graphql(GRAPH)["assetNodes"]}

    assert {name: [key["path"][0] for key in node["dependencyKeys"]] for name, node in nodes.items()} == {
        "games": [], "npz": ["games"], "models": ["npz"], "elo": ["models"], "registry": ["models"]
    }  # fmt: skip
    for node in nodes.values():
        dimensions = [dimension["name"] for dimension in node["partitionDefinition"]["dimensionTypes"]]
        assert dimensions == ["config", "node"]


@pytest.mark.cluster
def test_a_range_of_models_is_materialized_and_its_partitions_have_their_states(
    graphql: Ask, shared_cluster: EmbeddedCluster
) -> None:
    for node in ("runpod-a1", "vast-900001"):
        write_model(shared_cluster.node_root(node) / "models/candidate_square8_4p.pth", f"webserver {node}")
        launch(graphql, f"square8_4p|{node}", "games")  # makes the node a partition
    dimensions = graphql(ORDER, key={"path": ["models"]})["assetNodeOrError"]["partitionKeysByDimension"]
    nodes = next(one["partitionKeys"] for one in dimensions if one["name"] == "node")
    first, last = sorted(("runpod-a1", "vast-900001"), key=nodes.index)

    launch(graphql, f"square8_4p|{first}", "models", f"square8_4p|{last}")

    found = graphql(STATES, key={"path": ["models"]})["assetNodeOrError"]["assetPartitionStatuses"]["ranges"]
    states = {
        (range_["primaryDimStartKey"], node)
        for range_ in found
        for node in range_["secondaryDim"]["materializedPartitions"]
    }
    assert {("square8_4p", "runpod-a1"), ("square8_4p", "vast-900001")} <= states
