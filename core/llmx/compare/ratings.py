"""Scores that people gave on the page, read from the files it saves and kept beside the answers."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmx.errors import RecipeError
from llmx.files import write_atomically

KEPT = "rated.json"
FORMAT = "llmx-ratings-1"

Ratings = dict[str, dict[str, int]]
"""Scores by rater, then by the key of the answer."""


def read_ratings(path: Path) -> dict[str, int]:
    """Return the scores of one person by the keys of the answers.

    Raises:
        RecipeError: the file is none that the page saved.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("ratings"), list):
        raise RecipeError(f"{path}: holds no ratings of the page: save them there by its button")
    return dict(_rating(each, f"{path}: ratings[{at}]") for at, each in enumerate(values["ratings"], 1))


def _rating(each: Any, where: str) -> tuple[str, int]:
    key, score = (each.get("key"), each.get("score")) if isinstance(each, dict) else (None, None)
    if not isinstance(key, str) or type(score) is not int or not 1 <= score <= 5:
        raise RecipeError(f"{where}: needs a key and a score from 1 to 5: {each!r}"[:300])
    return key, score


def kept_ratings(out: Path) -> Ratings:
    """Return what was merged into a folder so far."""
    if not (out / KEPT).exists():
        return {}
    try:
        found: Ratings = json.loads((out / KEPT).read_text(encoding="utf-8"))["raters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{out / KEPT}: cannot be read: {error}: remove it and merge the ratings again") from None
    return found


def merge(out: Path, files: Sequence[Path], answers: Sequence[str]) -> list[str]:
    """Keep the ratings of files, each a rater called as the file is, and return a line on each.

    Raises:
        RecipeError: a file is none of ours, two are called alike, or none of one's ratings belongs to these answers.
    """
    names = [path.stem for path in files]
    if twice := [path for path in files if names.count(path.stem) > 1]:
        raise RecipeError(
            f"{' and '.join(map(str, twice))}: are called alike, and a rater is called as the file: rename one"
        )
    kept, known, lines = kept_ratings(out), set(answers), []
    for path in files:
        given = read_ratings(path)
        ours = {key: score for key, score in given.items() if key in known}
        if given and not ours:
            raise RecipeError(f"{path}: none of its {len(given)} ratings belongs to an answer in {out}")
        kept[path.stem] = ours
        beyond = f", {len(given) - len(ours)} of other answers left out" if len(ours) < len(given) else ""
        lines.append(f"{path}: {len(ours)} ratings by {path.stem!r}{beyond}")
    write_atomically(out / KEPT, json.dumps({"format": FORMAT, "raters": kept}, ensure_ascii=False, indent=1))
    return lines


def mean_ratings(ratings: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return the mean over raters of each answer's scores."""
    keys = dict.fromkeys(key for given in ratings.values() for key in given)
    return {key: statistics.fmean(given[key] for given in ratings.values() if key in given) for key in keys}
