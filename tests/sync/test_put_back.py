"""An npz that a person put back stays, although nodes still offer a better one."""

from __future__ import annotations

from ringrift_sync_dagster.demo.exports import make_export
from tests.sync.conftest import Field
from tests.sync.test_collect import A
from tests.sync.test_files import CONFIG, EXPORT, NPZ, digest, link, opened, passed


def test_a_better_export_that_a_person_took_back_does_not_return_by_itself_but_a_new_one_comes(field_: Field) -> None:
    path = link(field_, EXPORT, A)
    wanted = ""
    for count in (10, 50, 60):
        path.unlink(missing_ok=True)
        make_export(path, CONFIG, count, str(count))
        wanted = wanted or digest(path)
        passed(field_, NPZ)
    with opened(field_) as runtime:
        runtime.files.publisher.put_back(NPZ, CONFIG, wanted, trigger="test")

    passed(field_, NPZ)
    assert digest(link(field_, EXPORT)) == wanted
    path.unlink()
    make_export(path, CONFIG, 20, "new")
    passed(field_, NPZ)
    assert digest(link(field_, EXPORT)) == digest(path)
