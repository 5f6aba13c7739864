"""The plan of what goes: by age, by quota with hysteresis, and never what must stay."""

from __future__ import annotations

from ringrift_sync_dagster.core.retention import Item, Kind, plan

GB = 1_000_000_000


def item(name: str, size: int, at: float, due: str = "", *, spare: bool = False, held: str = "") -> Item:
    return Item(Kind.VERSIONS, name, size * GB, at, due, spare, held)


def test_what_is_due_goes_whatever_the_quota() -> None:
    found = plan([item("a", 1, 1, "old"), item("b", 1, 2, spare=True)], {Kind.VERSIONS: 100 * GB})

    assert [(one.item.name, one.why) for one in found.deletions] == [("a", "old")]
    assert found.shortages == ()


def test_above_its_quota_the_oldest_of_what_may_go_goes_down_to_nine_tenths() -> None:
    items = [item(f"v{number}", 1, number, spare=True) for number in range(12)]

    found = plan(reversed(items), {Kind.VERSIONS: 10 * GB})

    assert [one.item.name for one in found.deletions] == ["v0", "v1", "v2"]
    assert {one.why for one in found.deletions} == {"versions is above its quota of 10 GB"}


def test_exactly_at_its_quota_nothing_goes() -> None:
    items = [item(f"v{number}", 1, number, spare=True) for number in range(10)]

    assert plan(items, {Kind.VERSIONS: 10 * GB}).deletions == ()


def test_what_must_stay_stays_and_is_told() -> None:
    items = [item(f"v{number}", 2, number, held="it is published") for number in range(6)]
    items.append(item("w", 1, 9, spare=True))

    found = plan(items, {Kind.VERSIONS: 10 * GB})

    assert [one.item.name for one in found.deletions] == ["w"]
    assert [str(one) for one in found.shortages] == [
        "versions: 12.00 GB, its quota is 10.00 GB, and nothing more of it may be deleted: 6 x it is published"
    ]


def test_a_class_without_a_quota_goes_by_its_rules_alone() -> None:
    assert plan([item("a", 1000, 1, spare=True)], {}).deletions == ()
