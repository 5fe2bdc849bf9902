"""What documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.glossary import unexplained

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)|(?:src|href)=\"([^\":#]+)\"", page.read_text())
    missing = [link for pair in links for link in pair if link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_the_text_exist(page: Path) -> None:
    """But for those that a guide has its reader make."""
    folders = "worldfleet|cluster|learner|actors|envs|planners|native|deploy|tests|docs"
    named = re.findall(rf"`((?:{folders})/[\w/.-]+\.(?:py|md|yaml|cc|h|csv))`", page.read_text())
    made = re.findall(r"[Nn]ew file,? `([^`]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists() and name not in made] == []


def test_the_glossary_explains_names_and_no_others() -> None:
    known = ["step", "learner/loss/reconstruction/state", "learner/loss_member_12", "replay/inserted_steps"]
    assert unexplained([*known, "learner/lost", "replay/inserted", "x/step"]) == {
        "learner/lost",
        "replay/inserted",
        "x/step",
    }
