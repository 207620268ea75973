"""Set-up: what the lock pins, what the scripts promise, and what `import PIL` is."""

from __future__ import annotations

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import PIL
import pytest
import tomli
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
SHELL = sorted((ROOT / "launch").glob("*.sh"))
SCRIPTS = [*(path for path in SHELL if path.read_text().startswith("#!")), ROOT / ".ci" / "run"]  # others are sourced
PROJECT: dict[str, Any] = tomli.loads((ROOT / "pyproject.toml").read_text())
LOCK_LINES = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
LOCK = [Requirement(line) for line in LOCK_LINES]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
BENCH = [Requirement(text) for text in EXTRAS.get("bench", [])]  # peers: set-up installs none, so the lock pins none
DECLARED = [
    Requirement(text)
    for group in (
        PROJECT["build-system"]["requires"],
        PROJECT["project"]["dependencies"],
        *(extra for name, extra in EXTRAS.items() if name != "bench"),
        *PROJECT["dependency-groups"].values(),
    )
    for text in group
]
MACHINES = ["x86_64", "aarch64"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
ENVIRONMENTS = list(product(PYTHONS, MACHINES))
SHELL_TOOLS = "bash cat cut dirname env grep id mkdir paste rm sed sha256sum sleep sort tail tr uname"


def environment(python: str, machine: str) -> dict[str, str]:
    """A marker environment of Linux."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.1",
        "python_version": python,
        "sys_platform": "linux",
    }


def pinned(name: str, where: dict[str, str]) -> list[Version]:
    """The versions that the lock pins for a package in a marker environment."""
    return [
        Version(next(iter(pin.specifier)).version)
        for pin in LOCK
        if canonicalize_name(pin.name) == canonicalize_name(name) and (not pin.marker or pin.marker.evaluate(where))
    ]


class TestLock:
    def test_holds_exact_versions_and_no_addresses(self) -> None:
        wrong = [line for line in LOCK_LINES if not re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.]+( ; [^@/]+)?", line)]
        assert wrong == []

    def test_comments_hold_no_addresses(self) -> None:
        assert not re.search(r"://|--(extra-)?index-url|--find-links", (ROOT / "requirements.lock").read_text())

    @pytest.mark.parametrize(("python", "machine"), ENVIRONMENTS)
    def test_pins_each_package_once(self, python: str, machine: str) -> None:
        where = environment(python, machine)
        counts = {pin.name: len(pinned(pin.name, where)) for pin in LOCK}
        assert [name for name, count in counts.items() if count > 1] == []

    @pytest.mark.parametrize(("python", "machine"), ENVIRONMENTS)
    def test_pins_every_dependency_within_its_range(self, python: str, machine: str) -> None:
        where = environment(python, machine)
        for requirement in DECLARED:
            if requirement.marker and not requirement.marker.evaluate(where):
                continue
            versions = pinned(requirement.name, where)
            assert len(versions) == 1, requirement
            assert requirement.specifier.contains(versions[0], prereleases=True), (requirement, versions[0])

    def test_pillow_simd_is_the_pillow_that_the_rest_was_resolved_against(self) -> None:
        where = environment("3.11", "x86_64")
        assert pinned("pillow-simd", where)[0].release == pinned("pillow", where)[0].release


class TestEnvironment:
    def test_pil_is_the_locked_pillow_simd_or_pillow_where_there_is_none(self) -> None:
        where = environment(f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())
        name = "pillow-simd" if platform.machine() == "x86_64" else "pillow"
        assert [Version(PIL.__version__)] == pinned(name, where)
        assert metadata.version(name) == PIL.__version__

    def test_everything_that_is_imported_is_declared(self) -> None:
        declared = {canonicalize_name(requirement.name) for requirement in DECLARED}
        providers = metadata.packages_distributions()
        own = {path.stem for folder in (ROOT, ROOT / "tests") for path in folder.iterdir()}
        undeclared = set()
        for path in [*ROOT.glob("trainer/**/*.py"), *ROOT.glob("data_prep/**/*.py"), *ROOT.glob("tests/**/*.py")]:
            for module in imported(path) - own - sys.stdlib_module_names:
                if not declared & {canonicalize_name(name) for name in providers.get(module, [])}:
                    undeclared.add((str(path.relative_to(ROOT)), module))
        assert {(path, module) for path, module in undeclared if not of_a_peer(path, module)} == set()


def of_a_peer(path: str, module: str) -> bool:
    """Whether the benchmark's extra declares what a peer imports. It need not be installed here to tell whose it is."""
    return path.startswith("trainer/bench/loader/peers/") and any(peer.name.startswith(module) for peer in BENCH)


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a source file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


class TestCommands:
    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
    def test_scripts_are_executable_stop_at_the_first_error_and_parse(self, script: Path) -> None:
        assert os.access(script, os.X_OK)
        assert "\nset -euo pipefail\n" in script.read_text()
        subprocess.run(["bash", "-n", script], check=True)

    def test_ci_runs_make_test_and_nothing_else(self) -> None:
        lines = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line and not line.startswith("#")]
        assert lines == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "make test"]

    def test_make_test_sets_up_then_lints_then_ends_with_pytest(self) -> None:
        steps = made("test")
        assert "launch/setup.sh" in steps[0]
        assert [step.split(" -m ")[1] for step in steps[1:]] == ["ruff check", "ruff format --check", "mypy", "pytest"]

    def test_make_quickstart_sets_up_first(self) -> None:
        assert [step.split("launch/")[1] for step in made("quickstart")] == ["setup.sh", "quickstart.sh"]

    def test_make_alone_lists_the_targets(self) -> None:
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        shown = subprocess.run(["make", "-s"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert {f"make {target}" for target in targets if target != "help"} == set(re.findall(r"make [a-z]+", shown))


def made(target: str) -> list[str]:
    """The commands that make would run for a target."""
    shown = subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [line for line in shown.splitlines() if not line.startswith("make")]


SET_UP_FROM = ["launch/setup.sh", "requirements.lock", "pyproject.toml", "setup.py"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of what set-up reads."""
    folder = tmp_path / "clone"
    (folder / "launch").mkdir(parents=True)
    for name in SET_UP_FROM:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "trainer/jpeg/src", folder / "trainer/jpeg/src")
    return folder


class TestUpToDate:
    """A copy of a finished set-up; its .venv is the environment of the tests."""

    @pytest.fixture
    def done(self, clone: Path) -> Path:
        python = clone / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        (clone / "trainer/jpeg/_jpegcrop.abi3.so").touch()
        shell(clone, 'fingerprint >"$STATE"')
        return clone

    def test_when_nothing_has_changed(self, done: Path) -> None:
        assert up_to_date(done)

    @pytest.mark.parametrize("name", [*SET_UP_FROM, "trainer/jpeg/src/transcode.c", "trainer/jpeg/src/jpegcrop.h"])
    def test_not_after_a_change(self, done: Path, name: str) -> None:
        with open(done / name, "a") as file:
            file.write("\n")
        assert not up_to_date(done)

    def test_not_with_another_source_of_the_library(self, done: Path) -> None:
        (done / "trainer/jpeg/src/new.c").write_text("int x;\n")
        assert not up_to_date(done)

    def test_not_without_the_library(self, done: Path) -> None:
        (done / "trainer/jpeg/_jpegcrop.abi3.so").unlink()
        assert not up_to_date(done)

    def test_not_after_an_interrupted_set_up(self, done: Path) -> None:
        (done / ".venv/setup.state").write_text("begun\n")
        assert not up_to_date(done)


def shell(clone: Path, command: str) -> int:
    """The exit status of a command among the functions of setup.sh."""
    definitions, call, _ = (clone / "launch/setup.sh").read_text().rpartition("\nmain\n")
    assert call
    functions = clone / "launch/functions.sh"
    functions.write_text(definitions)
    return subprocess.run(["bash", "-c", f"source {functions}; {command}"], check=False).returncode


def up_to_date(clone: Path) -> bool:
    return shell(clone, "if up_to_date; then exit 0; else exit 3; fi") == 0


class TestSetupFaults:
    """A copy of the set-up files on a machine where something is missing."""

    @pytest.fixture
    def bare_path(self, tmp_path: Path) -> Path:
        """A PATH with a shell and its tools, and neither compilers, pkg-config, apt, sudo nor Python."""
        folder = tmp_path / "bin"
        folder.mkdir()
        for tool in re.findall(r"\S+", SHELL_TOOLS):
            found = shutil.which(tool)
            assert found, tool
            (folder / tool).symlink_to(found)
        return folder

    def run(self, clone: Path, path: Path, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [clone / "launch" / "setup.sh"],
            env={"PATH": str(path), **extra},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_missing_headers_without_root_are_one_message_for_apt_dnf_and_conda(
        self, clone: Path, bare_path: Path
    ) -> None:
        done = self.run(clone, bare_path, PYTHON=sys.executable)
        assert done.returncode == 1
        assert done.stderr.count("error:") == 1
        for part in ("opencv4", "libturbojpeg", "pkg-config", "apt-get install", "dnf install", "conda install"):
            assert part in done.stderr
        assert not (clone / ".venv").exists()

    def test_no_python_is_one_line(self, clone: Path, bare_path: Path) -> None:
        done = self.run(clone, bare_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert re.fullmatch(r"error: no Python from 3\.10 to 3\.14 found .*\n", done.stderr)

    def test_a_python_that_is_not_supported_is_named(self, clone: Path, bare_path: Path) -> None:
        done = self.run(clone, bare_path, PYTHON=shutil.which("false") or "false")
        assert done.returncode == 1
        assert "false" in done.stderr
