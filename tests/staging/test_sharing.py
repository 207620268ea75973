"""Several processes and one copy: locks of the kernel on its folder, and nothing else, say who uses it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.trainers import until
from tests.samples import PYTHON, REPOSITORY, smooth_image, write_beton
from tests.staging.conftest import Start, await_partial, make_beton
from trainer.staging.folder import PARTIAL, CopyFolder, unused_copies
from trainer.staging.holding import hold
from trainer.staging.room import is_memory, room
from trainer.staging.source import Source


def test_two_at_once_copy_once_and_the_last_removes(sound: Path, folder: Path, tmp_path: Path, start: Start) -> None:
    def command(name: str) -> list[str]:
        wait = f"touch {tmp_path}/{name}; until [ -e {tmp_path}/{name}-go ]; do sleep 0.02; done; cmp {{0}} {sound}"
        return [str(sound), "--to", str(folder), "--", "sh", "-c", wait]

    first = start(1 << 10, *command("first"))
    copy = await_partial(folder)
    first.send_signal(signal.SIGSTOP)
    second = start(1 << 10, *command("second"))
    assert second.stderr is not None
    assert "another process is at work on its copy; waiting for it" in second.stderr.readline()
    first.send_signal(signal.SIGCONT)
    until(lambda: (tmp_path / "first").exists() and (tmp_path / "second").exists())
    (tmp_path / "first-go").touch()
    said = first.communicate(timeout=60)[1]
    assert [path.name for path in folder.iterdir()] == [copy.name]
    (tmp_path / "second-go").touch()
    said += second.communicate(timeout=60)[1]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert said.count("copied and verified") == 1
    assert not os.listdir(folder)


def test_one_that_waits_for_a_process_that_is_killed_copies_itself(sound: Path, folder: Path, start: Start) -> None:
    first = start(100, sound, "--to", folder, "--", "echo", "{0}")
    await_partial(folder)
    second = start(1 << 20, sound, "--to", folder, "--", "cmp", "{0}", sound)
    assert second.stderr is not None
    assert "waiting for it" in second.stderr.readline()
    first.kill()
    assert "copied and verified" in second.communicate(timeout=60)[1]
    assert second.returncode == 0
    assert not os.listdir(folder)


COME_AND_GO = """
import sys
from pathlib import Path
from trainer.staging import holding as module
from trainer.staging.source import Source
module.POLL_SECONDS = 0.0005
source, folder = Source.of(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(30):
    copy = module.hold(source, folder)
    assert copy.is_whole(source)
    copy.leave()
"""


def test_however_they_come_and_go_who_holds_a_copy_has_a_whole_one(tmp_path: Path, folder: Path) -> None:
    small = write_beton(tmp_path / "small.beton", [smooth_image(8, 8, i) for i in range(3)], [0, 1, 2])
    words = [PYTHON, "-c", COME_AND_GO, str(small), str(folder)]
    processes = [subprocess.Popen(words, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [(process.communicate(timeout=120)[1], process.returncode) for process in processes]
    assert [status for _, status in ends] == [0, 0, 0], ends
    assert not os.listdir(folder)


class TestACopy:
    def test_is_kept_by_whoever_has_a_share_of_its_lock(self, sound: Path, folder: Path) -> None:
        source = Source.of(sound)
        one, other = hold(source, folder), hold(source, folder)
        assert one.path == other.path
        assert not list(unused_copies(folder))
        one.leave()
        assert other.is_whole(source)
        other.leave()
        assert not other.path.exists()

    def test_that_nobody_holds_is_unused(self, sound: Path, folder: Path) -> None:
        held = hold(Source.of(sound), folder)
        held.close()
        for unused in unused_copies(folder):
            assert not unused.is_partial()
            assert not CopyFolder(held.path).lock(exclusive=False)
            unused.remove()
        assert not os.listdir(folder)

    @pytest.mark.parametrize("damage", ["missing", "short", "other", "more"])
    def test_that_is_not_whole_is_made_again(self, sound: Path, folder: Path, damage: str) -> None:
        source = Source.of(sound)
        left = hold(source, folder)
        left.close()
        manifest = left.path / f"{sound.name}.json"
        if damage == "missing":
            manifest.unlink()
        elif damage == "short":
            os.truncate(left.path / sound.name, 100)
        elif damage == "other":
            manifest.write_bytes(b"{}")
        else:
            (left.path / PARTIAL / "x").mkdir(parents=True)
        assert not left.is_whole(source)
        again = hold(source, folder)
        assert again.is_whole(source)
        assert (again.path / sound.name).read_bytes() == sound.read_bytes()
        again.leave()

    def test_can_neither_be_read_nor_changed_by_others(self, sound: Path, folder: Path) -> None:
        held = hold(Source.of(sound), folder)
        assert held.path.stat().st_mode & 0o777 == 0o700
        assert (held.path / sound.name).stat().st_mode & 0o777 == 0o400
        held.leave()

    def test_is_known_by_its_content_wherever_it_came_from(self, sound: Path, own: Path) -> None:
        assert Source.of(sound).key == Source.of(own).key
        make_beton(own, seed=5)
        assert Source.of(sound).key != Source.of(own).key


class TestRoom:
    def test_is_less_than_what_is_free(self, folder: Path) -> None:
        status = os.statvfs(folder)
        assert room(folder) < status.f_bavail * status.f_frsize

    def test_of_memory_is_known_to_be_memory(self) -> None:
        assert not is_memory(Path("/proc"))
        types = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
        if types.get("/dev/shm") == "tmpfs":
            assert is_memory(Path("/dev/shm"))
