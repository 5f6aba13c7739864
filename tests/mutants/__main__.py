"""Break a copy of the project in each known way and show that the named test notices it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.mutants.mutations import MUTATIONS, PACKAGE, Mutation

CHECKOUT = Path(__file__).resolve().parents[2]
SECONDS = 300.0


def copied(folder: Path) -> Path:
    """Copy what the tests need into ``folder``."""
    target = folder / "checkout"
    target.mkdir()
    for name in (PACKAGE, "tests", "hosts"):
        shutil.copytree(CHECKOUT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", target)
    return target


def runs(checkout: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run one test in a checkout, with the package of that checkout."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "", test]
    return subprocess.run(command, cwd=checkout, check=False, capture_output=True, text=True, timeout=SECONDS)


def apply(mutation: Mutation, checkout: Path) -> None:
    """Break the copy.

    Raises:
        ValueError: The text is not there exactly once: the mutation must be brought up to date.

    """
    path = checkout / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise ValueError(
            f"{mutation.file} has the text of {mutation.name!r} {text.count(mutation.old)} times, not once"
        )
    path.write_text(text.replace(mutation.old, mutation.new))


def judge(mutation: Mutation) -> bool:
    """Run the test on a sound copy and on a broken one; True when it passes on the first and fails on the second."""
    with tempfile.TemporaryDirectory() as name:
        checkout = copied(Path(name))
        sound = runs(checkout, mutation.test)
        apply(mutation, checkout)
        broken = runs(checkout, mutation.test)
    caught = sound.returncode == 0 and broken.returncode == 1
    print(f"{'caught' if caught else 'NOT CAUGHT'}: {mutation.name}: {mutation.test}", flush=True)
    if not caught:
        print(sound.stdout if sound.returncode else broken.stdout)
    return caught


def main() -> int:
    """Judge all mutations, or those whose name holds a word of the command line."""
    words = sys.argv[1:]
    chosen = [one for one in MUTATIONS if not words or any(word in one.name for word in words)]
    for one in [one for one in chosen if one.needs_root and os.geteuid() != 0]:
        print(f"left out: {one.name}: its test cuts the power of a file system of its own, which takes root")
        chosen.remove(one)
    caught = [judge(mutation) for mutation in chosen]
    print(f"{sum(caught)} of {len(caught)} mutations caught")
    return 0 if caught and all(caught) else 1


if __name__ == "__main__":
    sys.exit(main())
