"""The native part of the build: trainer/jpeg/_jpegcrop from trainer/jpeg/src. pyproject.toml has the rest.

The library has no Python in it and is loaded with ctypes. Built as an abi3 extension it has one name, and one wheel
serves every Python.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = "trainer/jpeg/src"
PROBE = """
#include <stdio.h>
#include <jpeglib.h>
#ifndef LIBJPEG_TURBO_VERSION
#error "jpeglib.h is not libjpeg-turbo's"
#endif
void *probe(struct jpeg_error_mgr *errors) { return jpeg_std_error(errors); }
"""
PACKAGES = """Install them, then run the same command again:
  apt    sudo apt-get install gcc libc6-dev libjpeg-dev
  dnf    sudo dnf install gcc libjpeg-turbo-devel
  conda  conda install -c conda-forge c-compiler libjpeg-turbo"""


class BuildLibrary(build_ext):
    """Says in one message what there is not to build with, and never leaves half a library under its final name."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.force = True  # costs seconds; a library of older flags or of another machine would cost hours

    def build_extensions(self) -> None:
        for extension in self.extensions:
            self.need_compiler_and_libjpeg(extension)
        super().build_extensions()

    def need_compiler_and_libjpeg(self, extension: Extension) -> None:
        """End the build unless a function of libjpeg-turbo's can be compiled and linked as `extension` will be."""
        folder = Path(self.build_temp)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "probe.c"
        probe.write_text(PROBE)
        compiler = self.compiler
        command = [*compiler.linker_so, *compiler.compiler_so[1:], str(probe), "-o", str(probe.with_suffix(".so"))]
        command += [f"-I{path}" for path in [*compiler.include_dirs, *extension.include_dirs]]
        command += [f"-L{path}" for path in [*compiler.library_dirs, *extension.library_dirs]]
        command += [f"-l{name}" for name in extension.libraries]
        try:
            english = {**os.environ, "LC_ALL": "C"}
            done = subprocess.run(command, env=english, capture_output=True, text=True, check=False)
        except OSError as error:
            raise SystemExit(missing(f"a C compiler ({command[0]}: {error.strerror})")) from None
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if "error:" in line or "cannot find" in line]
            raise SystemExit(missing(f"libjpeg-turbo ({said[0] if said else 'the compiler gives no reason'})"))

    def copy_file(self, infile: str, outfile: str, **options: object) -> tuple[str, bool]:
        """Copy under a temporary name, then rename: processes keep the library that they have loaded."""
        super().copy_file(infile, f"{outfile}.part", **options)
        os.replace(f"{outfile}.part", outfile)
        return outfile, True


def missing(what: str) -> str:
    """The message that ends the build."""
    return f"error: trainer.jpeg's C library cannot be built: {what} is missing.\n{PACKAGES}"


def sources(pattern: str) -> list[str]:
    """Relative to the project, sorted: the same command for the same sources."""
    return sorted(path.as_posix() for path in Path(SOURCES).glob(pattern))


setup(
    ext_modules=[
        Extension(
            "trainer.jpeg._jpegcrop",
            sources("*.c"),
            depends=[*sources("*.h"), f"{SOURCES}/exports.map"],
            libraries=["jpeg", "m"],
            # No -march: what is compiled here runs on any CPU of its kind, and chooses at run time.
            extra_compile_args=["-std=c11", "-O3", "-pthread", "-Wall", "-Wextra"],
            extra_link_args=["-pthread", "-Wl,-z,defs", f"-Wl,--version-script={SOURCES}/exports.map"],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
