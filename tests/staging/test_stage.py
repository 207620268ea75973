"""`trainer stage`: a command finds whole copies of its betons, and nothing is left when it has ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.trainers import can_mount, mounted, until
from tests.samples import PYTHON, REPOSITORY, smooth_image, write_beton
from tests.staging.conftest import PAGES, SLOWLY, Start, await_partial, flip_byte, make_beton
from trainer.data.dataset import open_dataset
from trainer.data.manifest import manifest_path, mean_image_path
from trainer.errors import RunError, UsageError
from trainer.staging import fill_in, stage

as_root = pytest.mark.skipif(not can_mount(), reason="mounts a file system, which only root may")


def stage_and_keep(files: list[Path], folder: Path, seen: Path) -> int:
    """Stage, with a command that saves what it finds in the folders `seen`/0, `seen`/1, ..."""
    seen.mkdir(exist_ok=True)
    copies = "; ".join(f"cp -r $(dirname {{{i}}}) {seen}/{i}" for i in range(len(files)))
    return stage(files, folder, "copy", ["sh", "-ec", copies])


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


class TestTheCommandFinds:
    def test_a_beton_equal_to_the_original_with_all_that_lies_beside_it(
        self, sound: Path, folder: Path, tmp_path: Path
    ) -> None:
        assert stage_and_keep([sound], folder, tmp_path / "seen") == 0
        names = sorted(path.name for path in sound.parent.iterdir())
        assert sorted(os.listdir(tmp_path / "seen" / "0")) == names
        assert all(same(sound.parent / name, tmp_path / "seen" / "0" / name) for name in names)
        assert open_dataset(tmp_path / "seen" / "0" / sound.name).digest == open_dataset(sound).digest
        assert not os.listdir(folder)

    def test_several_files_also_of_one_name(self, sound: Path, folder: Path, tmp_path: Path) -> None:
        other = make_beton(tmp_path / sound.name, seed=1, manifest=False)
        assert stage_and_keep([sound, other, sound], folder, tmp_path / "seen") == 0
        for i, path in enumerate((sound, other, sound)):
            assert same(path, tmp_path / "seen" / str(i) / path.name)
        assert not os.listdir(folder)

    def test_them_under_their_own_names_if_it_is_one_of_the_trainer(
        self, sound: Path, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        ask = "import sys; from trainer.data.dataset import open_dataset; print(open_dataset(sys.argv[1]).beton.path)"
        assert stage([sound], folder, "copy", [PYTHON, "-c", ask, os.path.relpath(sound)]) == 0
        assert Path(capfd.readouterr().out.strip()).is_relative_to(folder)
        assert open_dataset(sound).beton.path == sound

    def test_a_beton_without_a_manifest(self, folder: Path, tmp_path: Path) -> None:
        small = write_beton(tmp_path / "small.beton", [smooth_image(8, 8, i) for i in range(3)], [0, 1, 2])
        assert stage_and_keep([small], folder, tmp_path / "seen") == 0
        assert same(small, tmp_path / "seen" / "0" / "small.beton")

    def test_other_data_of_the_same_name_as_other_data(self, own: Path, folder: Path, tmp_path: Path) -> None:
        def stage_again(i: int) -> None:
            stage_and_keep([own], folder, tmp_path / f"seen{i}")
            assert same(own, tmp_path / f"seen{i}" / "0" / own.name)

        words = [PYTHON, "-c", KILLED, str(own), str(folder)]
        subprocess.run(words, cwd=REPOSITORY, check=False, timeout=60)  # leaves a copy of what is there now
        assert len(os.listdir(folder)) == 1
        make_beton(own, seed=2)
        stage_again(1)
        manifest_path(own).unlink()
        stage_again(2)
        status = own.stat()
        flip_byte(own, status.st_size // 2)
        os.utime(own, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        stage_again(3)

    def test_the_originals_path_where_a_file_is_not_staged(
        self, sound: Path, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        name = f"staged-beton-{os.geteuid()}-"
        stage([sound], folder, "copy", ["echo", "{0}"])
        staged = Path(capfd.readouterr().out.strip())
        assert staged.parent.name.startswith(name)
        staged.parent.symlink_to(sound.parent)  # where others may write, somebody may have been here before
        assert stage([sound], folder, "copy", ["echo", "{0}"]) == 0
        out, err = capfd.readouterr()
        assert out == f"{sound}\n"
        assert f"train.beton: not staged: {staged.parent}: Not a directory; reading from {sound} instead\n" in err
        assert staged.parent.is_symlink()


KILLED = """
import os, signal, sys
from pathlib import Path
from trainer.staging.holding import hold
from trainer.staging.source import Source
hold(Source.of(Path(sys.argv[1])), Path(sys.argv[2]))
os.kill(os.getpid(), signal.SIGKILL)
"""


class TestTheCommand:
    @pytest.mark.parametrize(("script", "status"), [("", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)])
    def test_gives_its_status(self, sound: Path, folder: Path, script: str, status: int) -> None:
        assert stage([sound], folder, "copy", ["sh", "-c", f"{script} # {{0}}"]) == status
        assert not os.listdir(folder)

    def test_under_nohup_a_hangup_ends_neither(self, sound: Path, folder: Path) -> None:
        script = f"touch {folder}/running; sleep 1; exit 9  # {{0}}"
        words = ["nohup", PYTHON, "-m", "trainer", "stage", sound, "--to", folder, "--", "sh", "-c", script]
        nothing = subprocess.DEVNULL  # else nohup writes a file
        command = [str(word) for word in words]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdin=nothing, stdout=nothing, stderr=nothing)
        until((folder / "running").exists)
        process.send_signal(signal.SIGHUP)
        assert process.wait(30) == 9

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
    def test_gets_the_signals(self, sound: Path, folder: Path, start: Start, number: signal.Signals) -> None:
        script = f'trap "exit 9" TERM INT USR1 HUP; touch {folder}/running; while :; do sleep 0.02; done'
        process = start(1 << 20, sound, "--to", folder, "--", "sh", "-c", f"{script} # {{0}}")
        until((folder / "running").exists)
        process.send_signal(number)
        assert process.wait(30) == 9
        assert os.listdir(folder) == ["running"]

    def test_is_found_before_anything_is_copied(self, sound: Path, folder: Path) -> None:
        for command, message in {
            (): "give the command to run after --",
            ("acelerate", "{0}"): "no program 'acelerate' here",
            ("echo", "{0}", "{1}"): r"\{1\} in the command stands for no file: 1 given",
        }.items():
            with pytest.raises(UsageError, match=message):
                stage([sound], folder, "copy", command)

    def test_can_have_any_words(self) -> None:
        assert fill_in(["a={0}", "{1}{0}", "${0}", "{}", "{x}"], [Path("/a"), Path("b")]) == [
            *("a=/a", "b/a", "${0}", "{}", "{x}")
        ]

    @given(st.lists(st.text("a=${}/ ")))
    def test_keeps_words_without_placeholders(self, words: list[str]) -> None:
        assert fill_in(words, []) == words


class TestRefused:
    def test_a_folder_that_is_not_there(self, sound: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="none: no such folder; make it"):
            stage([sound], tmp_path / "none", "copy", ["echo", "{0}"])

    def test_a_way_that_is_none(self, sound: Path, folder: Path) -> None:
        with pytest.raises(UsageError, match=r"--how: 'mmap' is not a way to stage \(did you mean 'mmap-shared'\?\)"):
            stage([sound], folder, "mmap", ["echo", "{0}"])
        with pytest.raises(UsageError, match="give a folder on a disk of this node: --to FOLDER"):
            stage([sound], None, "copy", ["echo", "{0}"])

    def test_memory_that_is_a_disk(self, sound: Path) -> None:
        with pytest.raises(UsageError, match=r"/proc: not in memory \(a tmpfs\)"):
            stage([sound], Path("/proc"), "mmap-shared", ["echo", "{0}"])

    @pytest.mark.parametrize("page", range(PAGES))
    def test_a_damaged_page(self, own: Path, folder: Path, page: int, capfd: pytest.CaptureFixture[str]) -> None:
        first = 8 << 20
        flip_byte(own, first * (page + 1) + 1234)
        where = rf"page {page} of {PAGES} \(bytes {first * (page + 1)} to \d+\) is not what was written"
        with pytest.raises(UsageError, match=where):
            stage([own], folder, "copy", ["echo", "{0}"])
        assert not os.listdir(folder)
        assert capfd.readouterr().out == ""

    def test_a_manifest_of_other_data(self, own: Path, folder: Path, tmp_path: Path) -> None:
        small = write_beton(tmp_path / "small.beton", [smooth_image(8, 8, i) for i in range(3)], [0, 1, 2])
        shutil.copy(manifest_path(own), manifest_path(small))
        with pytest.raises(UsageError, match=r"small\.beton: the manifest beside it is of other data"):
            stage([small], folder, "copy", ["echo", "{0}"])

    def test_a_file_that_is_no_beton(self, folder: Path) -> None:
        with pytest.raises(UsageError, match="not a beton"):
            stage([Path(__file__)], folder, "copy", ["echo", "{0}"])

    def test_a_file_that_changes_meanwhile(self, folder: Path, tmp_path: Path, start: Start) -> None:
        changing = make_beton(tmp_path / "x.beton", manifest=False)
        process = start(1 << 10, changing, "--to", folder, "--", "echo", "{0}")
        await_partial(folder)
        os.utime(changing)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (RunError.exit_code, "")
        assert f"error: {changing}: changed while it was copied" in err
        assert not os.listdir(folder)


class TestWhereThereIsNoRoom:
    @as_root
    def test_the_original_is_read(self, sound: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with mounted(folder, "size=20m"):
            assert stage([sound], folder, "copy", ["echo", "{0}"]) == 0
            assert not os.listdir(folder)
        out, err = capfd.readouterr()
        assert out == f"{sound}\n"
        size = sum(path.stat().st_size for path in sound.parent.iterdir()) / 1e6
        assert f"not staged: it takes {size:.1f} MB, and {folder} has room for 19.9 MB; reading from {sound} " in err

    @as_root
    def test_in_the_middle_of_copying_neither(
        self, sound: Path, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with mounted(folder, "nr_inodes=3"):  # for the root, the copy's folder and the beton
            assert stage([sound], folder, "copy", ["echo", "{0}"]) == 0
            assert not os.listdir(folder)
        out, err = capfd.readouterr()
        assert out == f"{sound}\n"
        assert f"No space left on device; reading from {sound} instead" in err

    @as_root
    def test_what_nobody_uses_is_removed(self, sound: Path, own: Path, folder: Path) -> None:
        with mounted(folder, "size=40m"):
            subprocess.run([PYTHON, "-c", KILLED, str(sound), str(folder)], cwd=REPOSITORY, check=False, timeout=60)
            (left,) = os.listdir(folder)
            make_beton(own, seed=3)
            assert stage([own], folder, "copy", ["sh", "-c", f"! [ -e {folder}/{left} ] && [ -e {{0}} ]"]) == 0
            assert not os.listdir(folder)

    @as_root
    def test_or_no_right_to_write_the_original_is_read(
        self, sound: Path, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with mounted(folder, "ro"):
            assert stage([sound], folder, "copy", ["echo", "{0}"]) == 0
        out, err = capfd.readouterr()
        assert out == f"{sound}\n"
        assert "Read-only file system; reading from" in err

    @as_root
    def test_a_folder_of_another_user_is_not_trusted(
        self, sound: Path, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        subprocess.run([PYTHON, "-c", KILLED, str(sound), str(folder)], cwd=REPOSITORY, check=False, timeout=60)
        (left,) = folder.iterdir()
        os.chown(left, 12345, 12345)
        assert stage([sound], folder, "copy", ["echo", "{0}"]) == 0
        out, err = capfd.readouterr()
        assert out == f"{sound}\n"
        assert f"not staged: {left}: belongs to another user" in err


class TestWhenItIsStopped:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
    def test_while_copying_it_says_so_and_leaves_nothing(
        self, sound: Path, folder: Path, start: Start, number: signal.Signals
    ) -> None:
        process = start(SLOWLY, sound, "--to", folder, "--", "echo", "{0}")
        await_partial(folder)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (85, "")
        assert err == f"stopped by {number.name} while staging; the same command begins again\n"
        assert not os.listdir(folder)

    def test_killed_while_copying_the_next_one_copies_anew(
        self, sound: Path, folder: Path, tmp_path: Path, start: Start
    ) -> None:
        process = start(SLOWLY, sound, "--to", folder, "--", "echo", "{0}")
        await_partial(folder)
        process.kill()
        process.communicate()
        assert os.listdir(folder)
        stage_and_keep([sound], folder, tmp_path / "seen")
        assert same(sound, tmp_path / "seen" / "0" / sound.name)
        assert not os.listdir(folder)

    def test_what_was_left_half_copied_of_other_data_is_removed(
        self, sound: Path, own: Path, folder: Path, start: Start
    ) -> None:
        process = start(SLOWLY, sound, "--to", folder, "--", "echo", "{0}")
        half = await_partial(folder)
        process.kill()
        process.communicate()
        make_beton(own, seed=4)
        assert stage([own], folder, "copy", ["sh", "-c", f"! [ -e {half} ] # {{0}}"]) == 0

    def test_killed_while_in_use_the_copy_is_used_until_the_command_ends(
        self, sound: Path, folder: Path, tmp_path: Path, start: Start, capfd: pytest.CaptureFixture[str]
    ) -> None:
        script = f'trap "" TERM; touch {tmp_path}/running; until [ -e {tmp_path}/go ]; do sleep 0.02; done # {{0}}'
        process = start(1 << 20, sound, "--to", folder, "--", "sh", "-c", script)
        until((tmp_path / "running").exists)
        process.kill()
        process.wait()
        assert stage([sound], folder, "copy", ["true", "{0}"]) == 0
        assert "train.beton: shared with other processes" in capfd.readouterr().err
        (left,) = folder.iterdir()
        (tmp_path / "go").touch()
        process.communicate()  # the command has closed its output
        assert stage([sound], folder, "copy", ["true", "{0}"]) == 0
        assert f"train.beton: found whole and unused: {left}" in capfd.readouterr().err
        assert not os.listdir(folder)


def test_torch_is_not_waited_for(sound: Path, folder: Path) -> None:
    program = """
import sys
from trainer.__main__ import main
assert main(["stage", *sys.argv[1:]]) == 0
assert "torch" not in sys.modules
"""
    words = [sys.executable, "-c", program, str(sound), "--to", str(folder), "--", "echo", "--", "{0}"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"-- {folder}/staged-beton-")
    assert not mean_image_path(done.stdout[3:].strip()).exists()
