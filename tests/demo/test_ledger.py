"""A ledger says what was finished, also when its writer was killed in the middle of a line."""

from pathlib import Path

from ringrift_sync_dagster.demo.ledger import Entry, Ledger, Plan, read_ledger, read_ledgers

ENTRY = Entry(Plan.NORMAL, "n", "data/games/a.db", "hex8_2p", "g", "c0ffee", 30, 1, "2026-03-01T00:00:00+00:00")


def test_a_game_goes_from_unfinished_over_doubt_to_finished(tmp_path: Path) -> None:
    file, seen = tmp_path / "n.jsonl", []
    with Ledger(file) as ledger:
        ledger.unfinished(ENTRY)
        seen += read_ledger(file)
        ledger.playing([ENTRY])
        seen += read_ledger(file)
        ledger.finished([ENTRY])
        seen += read_ledger(file)

    assert [(entry.finished, entry.in_doubt) for entry in seen] == [(False, False), (False, True), (True, False)]
    assert {entry.content for entry in seen} == {"c0ffee"}


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "n.jsonl"
    with Ledger(file) as ledger:
        ledger.playing([ENTRY])
    whole = file.read_text()
    file.write_text(whole + whole[: len(whole) // 2])

    assert [entry.game_id for entry in read_ledger(file)] == ["g"]
    with Ledger(file) as ledger:
        ledger.finished([ENTRY])
    assert [entry.finished for entry in read_ledger(file)] == [True]


def test_all_ledgers_of_a_folder_are_read_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Ledger(tmp_path / f"{name}.jsonl") as ledger:
            ledger.unfinished(ENTRY)

    assert len(read_ledgers(tmp_path)) == 2
    assert read_ledger(tmp_path / "c.jsonl") == []
