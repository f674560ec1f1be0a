"""Rewrite the files of known answers, and say which entries moved. The only way in which they change.

    python scripts/regolden.py            rewrite
    python scripts/regolden.py --check    write nothing; exit code 1 if something would move

`dsrun/arithmetic/answers.json`: digests of the rounding kernel and of the random bits. It is part of the package, because
`dsrun doctor` compares the machine at hand with it. `tests/golden/digests.json`: digests of the states of small trainings, for each
kind of CPU and versions that they were written on; only the entry of this machine's kind is written. A moved entry means that old
runs cannot be repeated: the commit says why, and CHANGELOG.md has it under Numerics.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dsrun.record import configure_runtime

configure_runtime()

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "golden"))

from states import CASES, DIGESTS, kind, known, state_digest  # noqa: E402

from dsrun.self_check import ANSWERS, all_answers, read_answers  # noqa: E402


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something would move")
    options = parser.parse_args()
    written = known()
    before = entries((read_answers() if ANSWERS.is_file() else {}) | {"states": written})
    answers = all_answers()
    digests = {case: state_digest(case, devices=1) for case in CASES}
    after = entries(answers | {"states": written | {kind(): digests}})
    moved = [
        f"{change(name, before, after)}  {name}"
        for name in sorted(before | after)
        if before.get(name) != after.get(name)
    ]
    print("\n".join(moved) or "nothing moved", flush=True)
    if options.check:
        sys.exit(1 if moved else 0)
    ANSWERS.write_text(json.dumps(answers, indent=1) + "\n")
    DIGESTS.write_text(json.dumps(written | {kind(): digests}, indent=1, sort_keys=True) + "\n")
    print(f"{ANSWERS}, {DIGESTS}: {len(after)} entries, {len(moved)} of them moved", file=sys.stderr)


def entries(answers: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The file's leaves by dotted path."""
    found: dict[str, str] = {}
    for name, value in answers.items():
        found |= entries(value, f"{prefix}{name} / ") if isinstance(value, dict) else {prefix + name: str(value)}
    return found


def change(name: str, before: dict[str, str], after: dict[str, str]) -> str:
    """What happened to an entry."""
    return "added  " if name not in before else "removed" if name not in after else "changed"


if __name__ == "__main__":
    main()
