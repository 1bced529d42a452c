"""Several runs of one study: whether they may be compared, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from .results import read_results, records_of, splits
from .tables import reached_k


@attrs.frozen
class Runs:
    """Runs of one study on one kind of data, with results as `read_results` gives them.

    Args:
        results: those of each run, by its label.

    Raises:
        ValueError: fewer than two runs, or such as cannot be compared.
    """

    results: Mapping[str, dict[str, Any]]

    def __attrs_post_init__(self) -> None:
        if len(self.results) < 2:
            raise ValueError(f"a comparison takes two runs or more, got {len(self.results)}")
        first, *others = self.results
        for other in others:
            reason = _why_not(self.results[first], self.results[other])
            if reason:
                raise ValueError(f"{first} and {other} cannot be compared: {reason}")
        if not self.splits:
            recorded = any(map(is_recorded, self.results.values()))
            again = "record one of them with the split= of the other" if recorded else "run one again with --split both"
            raise ValueError(f"{', '.join(self.results)} have no split in common, of training and test data: {again}")

    @classmethod
    def read(cls, directories: Sequence[Path]) -> Runs:
        """The runs of some folders, by the names of these.

        Raises:
            ValueError: see `Runs` and `read_results`; a folder that is named twice.
            OSError: results that are missing or cannot be read.
        """
        return cls(dict(zip(_labels(directories), map(read_results, directories), strict=True)))

    @property
    def splits(self) -> list[str]:
        """Those that all runs have, training data first."""
        first, *others = map(splits, self.results.values())
        return [split for split in first if all(split in other for other in others)]

    @property
    def k(self) -> int:
        """The largest dimension that all runs have."""
        return min(int(record["k_max"]) for results in self.results.values() for record in results["records"])

    @property
    def table_k(self) -> list[int]:
        """The dimensions of interest."""
        return reached_k(next(iter(self.results.values()))["table_k"], self.k)

    def records(self, split: str) -> dict[str, list[dict[str, Any]]]:
        """The records of each run, by step."""
        return {label: records_of(results, split) for label, results in self.results.items()}

    def differences(self, part: str) -> dict[str, list[Any]]:
        """Entries in which the runs differ, with the value that each has: of ``"options"`` or ``"environment"``."""
        entries = [results[part] for results in self.results.values()]
        names = list(dict.fromkeys(name for one in entries for name in one))
        found = {name: [one.get(name) for one in entries] for name in names}
        return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def is_recorded(results: dict[str, Any]) -> bool:
    """Whether they are of a recorder, whose options say nothing of the training."""
    return "solver" not in results["options"]


def _why_not(one: dict[str, Any], other: dict[str, Any]) -> str:
    """In what two results differ that must not, and what to do; empty if they may be compared."""
    if one["study"] != other["study"]:
        return f"they are of the studies {one['study']} and {other['study']}; compare runs of one study"
    if is_recorded(one) != is_recorded(other):
        return "one is a study, the other has the records of a training; compare runs of one kind"
    kinds = [f"{results['options'].get('data')} data" for results in (one, other)]
    if bool(one["warning"]) != bool(other["warning"]):
        made_up = " and ".join(results["warning"] or "real data" for results in (one, other))
        return f"they are of {made_up}; made-up data say nothing of real ones, so compare runs on either"
    if kinds[0] != kinds[1]:
        return f"they are of {kinds[0]} and of {kinds[1]}; compare runs with the same --data"
    names = [results["parameters"]["names"] for results in (one, other)]
    sizes = [dict(zip(*results["parameters"].values(), strict=True)) for results in (one, other)]
    if names[0] != names[1] or sizes[0] != sizes[1]:
        changed = [
            f"{name} has {sizes[0].get(name, 'no')} and {sizes[1].get(name, 'no')} entries"
            for name in dict.fromkeys([*sizes[0], *sizes[1]])
            if sizes[0].get(name) != sizes[1].get(name)
        ]
        which = changed[0] if changed else "their parameters are in another order"
        return f"their networks differ ({which}); compare runs of one network"
    return ""


def _labels(directories: Sequence[Path]) -> list[str]:
    """The ends of paths that are as long as it takes to tell them apart."""
    paths = [path.resolve() for path in directories]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} is named twice: name each run once")
    longest = max(len(path.parts) for path in paths)
    ends = (["/".join(path.parts[-depth:]) for path in paths] for depth in range(1, longest + 1))
    return next(labels for labels in ends if len(set(labels)) == len(labels))
