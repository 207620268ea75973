"""The build of the C library: one wheel for every Python, and one message where it cannot be built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.samples import PYTHON, REPOSITORY

SOURCES = REPOSITORY / "trainer" / "jpeg" / "src"
PROJECT = ["setup.py", "pyproject.toml", "README.md", "LICENSE", "trainer", "data_prep"]
LOCAL = ["--no-index", "--no-deps", "--no-build-isolation"]
SMALL_LIBRARY = '#include "jpegcrop.h"\nint hidden(void);\nint hidden(void) { return JC_VERSION; }\n'
SMALL_LIBRARY += "int jc_version(void) { return hidden(); }\n"


def run(*command: str | Path, cwd: str | Path = "/", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is."""
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def pip(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments, **environment)


def copy_project(folder: Path) -> Path:
    """The project's sources in `folder`, nothing built."""
    folder.mkdir()
    for name in PROJECT:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("*.so*", "__pycache__"))
        else:
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def copy_with_small_library(folder: Path) -> Path:
    """The same with a library of two functions, which builds in a second."""
    sources = copy_project(folder) / "trainer" / "jpeg" / "src"
    for source in sources.glob("*.c"):
        source.unlink()
    (sources / "small.c").write_text(SMALL_LIBRARY)
    return folder


@pytest.mark.slow
def test_sdist_to_wheel_to_a_library_that_works_elsewhere(tmp_path: Path) -> None:
    clone = copy_project(tmp_path / "clone")
    build = f"import os, setuptools.build_meta as b; os.chdir({str(clone)!r}); b.build_sdist({str(tmp_path)!r})"
    assert run(PYTHON, "-c", build).returncode == 0
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {Path(name).name for name in archive.getnames()}
    assert names >= {path.name for path in SOURCES.iterdir()}

    built = pip("wheel", *LOCAL, "--wheel-dir", tmp_path, sdist)
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    assert "-cp310-abi3-linux_" in wheel.name
    files = zipfile.ZipFile(wheel).namelist()
    assert [name for name in files if "_jpegcrop" in name] == ["trainer/jpeg/_jpegcrop.abi3.so"]
    assert [name for name in files if name.endswith((".c", ".h", ".map"))] == []

    site = tmp_path / "site"
    assert pip("install", *LOCAL, "--target", site, wheel).returncode == 0
    use = "import trainer.jpeg.native as j; print(j.__file__, j.restart_interval(22))"
    used = run(PYTHON, "-c", use, PYTHONPATH=str(site))
    assert used.stdout.split() == [str(site / "trainer" / "jpeg" / "native.py"), "11"], used.stderr


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small library that an editable install has built."""
    clone = copy_with_small_library(tmp_path_factory.mktemp("in place") / "clone")
    done = pip("install", *LOCAL, "--prefix", clone.parent / "prefix", "--editable", clone)
    assert done.returncode == 0, done.stderr
    return clone / "trainer" / "jpeg" / "_jpegcrop.abi3.so"


class TestInPlace:
    def test_is_one_file_beside_its_python_face(self, library: Path) -> None:
        assert [path.name for path in library.parent.glob("_jpegcrop*")] == [library.name]

    def test_shows_the_functions_of_the_header_alone(self, library: Path) -> None:
        shown = run("nm", "--dynamic", "--defined-only", library).stdout
        assert [line.split()[-1] for line in shown.splitlines()] == ["jc_version"]

    def test_needs_no_python_and_shows_what_its_headers_declare(self) -> None:
        (library,) = (REPOSITORY / "trainer" / "jpeg").glob("_jpegcrop*.so")
        assert "libpython" not in run("ldd", library).stdout
        shown = run("nm", "--dynamic", "--defined-only", library).stdout
        headers = "".join((SOURCES / name).read_text() for name in ("jpegcrop.h", "bus_error.h"))
        assert {line.split()[-1] for line in shown.splitlines()} == set(re.findall(r"\b(jc_\w+)\(", headers))

    def test_a_rebuild_leaves_the_library_alone_that_processes_have_loaded(self, library: Path) -> None:
        with open(library, "rb") as loaded:
            before = loaded.read()
            (library.parent / "src" / "small.c").write_text(SMALL_LIBRARY.replace("JC_VERSION", "77"))
            assert build_in_place(library.parents[2]).returncode == 0
            loaded.seek(0)
            assert loaded.read() == before
        use = f"import ctypes; print(ctypes.CDLL({str(library)!r}).jc_version())"
        assert run(PYTHON, "-c", use).stdout == "77\n"


class TestWhatIsMissing:
    """Each time one message: what is missing, and the packages that have it."""

    @pytest.fixture
    def clone(self, tmp_path: Path) -> Path:
        return copy_with_small_library(tmp_path / "clone")

    @pytest.fixture
    def headers(self, tmp_path: Path) -> Path:
        """A folder of headers without libjpeg's, in place of the system's."""
        folder = tmp_path / "include"
        folder.mkdir()
        (folder / "stdio.h").touch()
        return folder

    def test_header(self, clone: Path, headers: Path) -> None:
        done = build_in_place(clone, CFLAGS=f"-nostdinc -isystem {headers}")
        assert re.search(r"libjpeg-turbo \(.*jpeglib.h: No such file or directory\) is missing", refusal(done))

    def test_header_of_another_libjpeg(self, clone: Path, headers: Path) -> None:
        (headers / "jpeglib.h").write_text("#define JPEG_LIB_VERSION 90\n")
        done = build_in_place(clone, CFLAGS=f"-nostdinc -isystem {headers}")
        assert "jpeglib.h is not libjpeg-turbo's" in refusal(done)

    def test_library(self, clone: Path) -> None:
        setup = clone / "setup.py"
        setup.write_text(setup.read_text().replace('"jpeg", "m"', '"jpeg-of-nobody", "m"'))
        assert "cannot find -ljpeg-of-nobody" in refusal(build_in_place(clone))

    def test_compiler(self, clone: Path) -> None:
        done = build_in_place(clone, CC="/nowhere/cc")
        assert "a C compiler (/nowhere/cc: No such file or directory) is missing" in refusal(done)

    def test_under_pip_it_is_the_same_message(self, clone: Path) -> None:
        done = pip("install", *LOCAL, "--prefix", clone.parent / "prefix", "--editable", clone, CC="/nowhere/cc")
        assert "a C compiler (/nowhere/cc: No such file or directory) is missing" in refusal(done)


def build_in_place(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(PYTHON, "setup.py", "--quiet", "build_ext", "--inplace", cwd=clone, **environment)


def refusal(build: subprocess.CompletedProcess[str]) -> str:
    """The first line of the one message that a failed build gives; packages to install are behind it."""
    said = build.stdout + build.stderr
    assert build.returncode == 1
    assert "Traceback" not in said
    assert said.count("error: trainer.jpeg") == 1
    message = said[said.index("error: trainer.jpeg") :]
    for package in ("libjpeg-dev", "libjpeg-turbo-devel", "libjpeg-turbo\n"):
        assert package in message
    return message.splitlines()[0]
