"""The error tree: each class says what to do next, each message who, what and where; all of them pickle."""

import pickle  # our own errors cross process borders; nothing here comes from a node

import pytest

import ringrift_sync_dagster.errors as tree
from ringrift_sync_dagster.errors import (
    CollectFailedError,
    ConfigError,
    EventError,
    InvalidFileError,
    LeaseHeldError,
    NextStep,
    PackRefusedError,
    Problem,
    RemoteCallError,
    StallError,
    SyncError,
    TransferError,
)

ALL = [value for value in vars(tree).values() if isinstance(value, type) and issubclass(value, SyncError)]
PROBLEM = Problem("hosts/vast.yaml", 7, "vast-1", "ssh_port", "'22abc' is no port")
SAMPLES: list[SyncError] = [
    ConfigError([PROBLEM]),
    PackRefusedError("ab" * 32, "vast-1", "it has a trigger"),
    InvalidFileError("data/training/hex8_2p.npz", "it has no samples"),
    LeaseHeldError("canonical:hex8_2p", "hub-1, process 7"),
    CollectFailedError(["hex8_2p|vast-1: no answer"]),
    EventError("MODEL_PROMOTED", "config", "it is no config"),
    RemoteCallError("vast-1", "p2p_http", "the file is locked", "locked", "data/games/x.db"),
    *(
        error("vast-1", "p2p_http", "no byte for 15 s")
        for error in ALL
        if issubclass(error, TransferError) and error is not RemoteCallError
    ),
]

EXPECTED = {
    "RETRY": {"TransferError", "TransientError", "StallError", "DeadlineExceededError"},
    "NEXT_RUNG": {"RungUnusableError", "UnreachableError", "LocalToolError", "ChecksumError"},
    "NODE_DOWN": {"NodeDownError"},
    "OURS": {
        *(
            "ArtifactGoneError",
            "SourceChangedError",
            "AdmissionRefusedError",
            "BackpressureError",
            "TransferUnderWayError",
            "LocalDiskError",
            "TransferCancelledError",
        ),
        *("LeaseHeldError", "LeaseLostError"),
    },
    "STOP": {
        *(
            "SyncError",
            "ConfigError",
            "AuthenticationError",
            "HostKeyError",
            "TokenError",
            "RemoteCallError",
            "PackRefusedError",
            "InvalidFileError",
            "ArchiveError",
        ),
        *("EventError", "StateError", "CanonicalStoreError", "CollectFailedError"),
    },
}


def test_every_error_says_what_to_do_next() -> None:
    found = {step.name: {error.__name__ for error in ALL if error.next_step is step} for step in NextStep}
    assert found == EXPECTED


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_survives_the_way_back_from_a_worker_process(error: SyncError) -> None:
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_a_transfer_error_names_node_transport_and_what_is_true_now() -> None:
    assert str(StallError("vast-1", "p2p_http", "no byte for 15 s")) == "vast-1 over p2p_http: no byte for 15 s"


def test_a_transfer_error_leaves_out_what_it_does_not_know() -> None:
    assert str(StallError("vast-1", "", "gone")) == "vast-1: gone"
    assert str(StallError("", "rsync", "gone")) == "rsync: gone"
    assert str(StallError("", "", "gone")) == "gone"


def test_a_refused_call_names_the_file_and_the_code_of_the_kit() -> None:
    with_code = RemoteCallError("vast-1", "p2p_http", "database is locked", "locked", "data/games/x.db")
    assert str(with_code) == "vast-1 over p2p_http: data/games/x.db: database is locked (locked)"
    assert str(RemoteCallError("vast-1", "p2p_http", "no")) == "vast-1 over p2p_http: no"


def test_a_refused_pack_names_node_artifact_and_reason() -> None:
    text = str(PackRefusedError("ab" * 32, "vast-1", "it has a trigger"))
    assert text == "vast-1: pack abababababab is refused and nothing of it was merged: it has a trigger"


def test_a_held_lease_names_its_holder() -> None:
    assert str(LeaseHeldError("merge", "hub-1, process 7")).startswith("lease merge is held by hub-1, process 7;")


def test_one_problem_is_shown_in_one_line_with_file_line_host_and_key() -> None:
    assert str(ConfigError([PROBLEM])) == "hosts/vast.yaml:7: host vast-1, key ssh_port: '22abc' is no port"


def test_a_problem_without_line_or_host_shows_what_there_is() -> None:
    assert str(Problem("hosts", None, "", "", "there is no such directory")) == "hosts: there is no such directory"
    assert str(Problem("environment", None, "", "X", "no")) == "environment: key X: no"


def test_several_problems_are_listed_all_and_warnings_are_not_counted() -> None:
    warning = Problem("hosts/a.yaml", 1, "", "", "odd", "warning")
    error = ConfigError([PROBLEM, warning, PROBLEM])
    assert str(error).splitlines() == ["2 problems in the configuration:", f"  {PROBLEM}", f"  {PROBLEM}"]
    assert error.problems == (PROBLEM, warning, PROBLEM)


def test_failed_partitions_are_counted_and_listed() -> None:
    assert str(CollectFailedError(["a|n: x"])).splitlines() == [
        "1 partition failed; what the others brought is recorded:",
        "  a|n: x",
    ]
    assert str(CollectFailedError(["a|n: x", "b|n: y"])).startswith("2 partitions failed;")


def test_partitions_that_failed_for_one_reason_share_a_line() -> None:
    found = str(CollectFailedError(["a|n: x: y", "b|n: x: y", "a|n: x: y", "a|m: z", "words"]))

    assert found.splitlines()[1:] == ["  a|n, b|n: x: y", "  a|m: z", "  words"]
