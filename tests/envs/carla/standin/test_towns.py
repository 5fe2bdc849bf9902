"""The towns: that they are what the builder writes, and that bad files are refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("carla", reason="needs worldfleet[carla]")

from envs.carla.roads import check_xodr
from envs.carla.standin.town_files import TOWN_FILES, town_names
from envs.carla.standin.towns import load_town, read_town, try_town


def test_the_files_are_what_the_builder_writes() -> None:
    pytest.importorskip("scenariogeneration", reason="needs scenariogeneration")
    from envs.carla.standin.build_towns import TOWNS

    assert sorted(TOWNS) == town_names()
    for name, build in TOWNS.items():
        assert build() == (TOWN_FILES / f"{name}.xodr").read_text(), f"{name}: run the builder again"


@pytest.mark.parametrize("name", town_names())
def test_every_lane_leads_on_and_begins_where_the_one_before_ends(name: str) -> None:
    roads = load_town(name).roads
    ends = [lane.key for lane in roads.lanes if not lane.successors]
    assert ends == ([(2, 0, -4)] if name == "highway" else []), "only the merging lane ends"
    for lane in roads.lanes:
        for after in lane.successors:
            gap = abs(lane.points[-1] - roads.lanes[after].points[0]).max()
            assert gap < 0.35, (lane.key, roads.lanes[after].key)
    assert all(lane.left >= 0 for lane in roads.lanes if not lane.successors), "who merges has a lane to merge into"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road", "this is no XML"),
        ("<town/>", "begins with <OpenDRIVE>, not <town>"),
        ("<OpenDRIVE/>", "has no road"),
        ('<OpenDRIVE><road id="3" length="5"/></OpenDRIVE>', "road 3 has no planView/geometry"),
    ],
)
def test_a_broken_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_xodr("mine", text)


def test_a_controller_without_its_signal_is_refused_before_the_library_sees_it() -> None:
    text = (TOWN_FILES / "grid.xodr").read_text().replace('signalId="9003"', 'signalId="1"')
    with pytest.raises(ValueError, match="a controller names signal '1', which no road has"):
        try_town("mine", text)


def test_an_unknown_town_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown town 'ovla' \(did you mean 'oval'\?\)"):
        load_town("ovla")
    with pytest.raises(OSError, match=r"none\.xodr"):
        read_town(tmp_path / "none.xodr")
