"""Studies that are run once, and copied to where a test wants to find one."""

import shutil

import pytest
import study_cases

from eigenspan.studies import report


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take the time, for what else they say."""
    monkeypatch.setattr(report, "save_figures", lambda results, directory: [])


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Puts a finished study into a folder, as `study_cases.run` does, and gives its results."""
    made = {}

    def copied(directory, **changes):
        key = tuple(sorted(changes.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("finished")
            study_cases.run(made[key], **changes)
        shutil.copytree(made[key], directory, dirs_exist_ok=True)
        return study_cases.run(directory, **changes)  # which reads them

    return copied
