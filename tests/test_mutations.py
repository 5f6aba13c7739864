"""The mutants fit the code as it is: a text that moved on would be found only when somebody runs `make mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutations import MUTATIONS, Mutation

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: str(mutation.name))
def test_what_a_mutant_changes_stands_in_the_code_once_and_its_test_exists(mutation: Mutation) -> None:
    file, _, name = mutation.test.partition("[")[0].partition("::")

    assert (CHECKOUT / mutation.file).read_text().count(mutation.old) == 1
    assert f"def {name}(" in (CHECKOUT / file).read_text()
