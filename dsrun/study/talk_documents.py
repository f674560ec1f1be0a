"""Reads what `dsrun study cartoon --json` and `dsrun study accumulate --json` printed, so that a report draws them without computing again.

No JAX: a report is made on a laptop from files. The commands draw their own figures from the same documents.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from dsrun.errors import DataError

Study = Literal["cartoon", "accumulate"]
_NEEDED = {"cartoon": ("ways", "trajectories", "learning_rate", "steps"), "accumulate": ("sums", "growth", "times")}


def read_study(path: Path, study: Study) -> dict[str, Any]:
    """The document in a file.

    Raises:
        DataError: it is not there, no JSON, or not what this study prints.
    """
    again = f"Make it with: dsrun study {study} --json > {path.name}"
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). {again}") from error
    except ValueError as error:
        raise DataError(f"{path}: no JSON document ({error}). {again}") from error
    missing = [key for key in _NEEDED[study] if not isinstance(document, Mapping) or key not in document]
    if missing:
        raise DataError(f"{path}: not what `dsrun study {study}` prints: {', '.join(missing)} missing. {again}")
    return dict(document)
