"""Files whose names say whose they are, and what is removed of dead processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from envs import scratch
from envs.scratch import owned_files, owned_name, remove_abandoned, scratch_folder

LEAVE = """
import os, sys
from pathlib import Path
from envs.scratch import owned_name, scratch_folder
with scratch_folder("token", Path(sys.argv[1])) as folder:
    (folder / "token").write_text("secret")
    (Path(sys.argv[1]) / f"{owned_name('slot')}-1").touch()
    print(folder, flush=True)
    input()
"""


def test_a_folder_is_its_users_alone_and_goes(tmp_path: Path) -> None:
    with scratch_folder("token", tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "token").touch()
        assert remove_abandoned([tmp_path]) == []
        assert owned_files([tmp_path]) == [(folder, True)]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_leaves_is_removed_once_it_is_dead(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LEAVE, str(tmp_path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert remove_abandoned([tmp_path]) == []  # it is alive
    process.kill()
    process.communicate()
    assert len(list(tmp_path.iterdir())) == 2
    removed = remove_abandoned([tmp_path])
    assert folder in removed
    assert len(removed) == 2
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_and_links_are_left_alone(tmp_path: Path) -> None:
    place, target = tmp_path / "place", tmp_path / "target"
    place.mkdir()
    (target / "kept").mkdir(parents=True)
    namespace = scratch._pid_namespace()
    names = [
        f"worldfleet-slot-{os.getuid() + 1}-{namespace}-999999-1-ab-1",  # another user's
        f"worldfleet-slot-{os.getuid()}-1-999999-1-ab-1",  # of another container
        "worldfleet-mine",
        "worldfleet-slot-x-y",
    ]
    for name in names:
        (place / name).touch()
    (place / f"worldfleet-token-{os.getuid()}-{namespace}-999999-1-ab").symlink_to(target)
    remove_abandoned([place])
    assert sorted(path.name for path in place.iterdir()) == sorted(names)
    assert (target / "kept").is_dir()  # the link went, not what it led to


def test_a_process_that_got_the_number_of_a_dead_one_is_another(tmp_path: Path) -> None:
    name = owned_name("slot")
    start = scratch._process_key(os.getpid()).rpartition("-")[2]
    (tmp_path / name.replace(f"-{start}-", f"-{int(start) + 1}-")).touch()
    (tmp_path / name).touch()
    assert len(remove_abandoned([tmp_path])) == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]
