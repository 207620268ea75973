"""What is installed: Python, the packages that this project asks for, the JPEG libraries."""

from __future__ import annotations

import importlib
import platform
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement

from trainer import __version__
from trainer.doctor.check import Check, fail, guarded, ok, warn

if TYPE_CHECKING:  # what it imports may be missing
    from trainer.recipe import Recipe

PROJECT: Final = "imagenet-trainer"

PACKAGES: Final = ("torch", "torchvision", "timm", "accelerate", "numpy", "omegaconf", "rich")
"""What training imports. Its ranges of versions are the project's own metadata."""

SET_UP: Final = "run `make setup`"


def software_checks(recipe: Recipe | None) -> list[Check]:
    """Versions and libraries of this node; what only some recipes need is missed where this one does."""
    return [
        ok("python", f"{platform.python_version()}, {PROJECT} {__version__}"),
        *guarded("packages", _packages),
        *guarded("jpeg decoder", _jpeg_decoder),
        *guarded("pillow", _pillow),
        *guarded("ffcv", lambda: _ffcv(recipe)),
        *guarded("tensorboard", lambda: _tensorboard(recipe)),
    ]


def software_facts() -> dict[str, str]:
    """What has to be the same on all nodes of a run."""
    found = {name: installed(name) or "not installed" for name in PACKAGES}
    return {"python": platform.python_version(), PROJECT: __version__, **found}


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_packages() -> list[Check]:
    """A failed check if packages are missing without which nothing else can be looked at."""
    missing = [name for name in PACKAGES if installed(name) is None]
    return [fail("packages", f"not installed: {', '.join(missing)}", SET_UP)] if missing else []


def _packages() -> Check:
    found = {name: installed(name) for name in PACKAGES}
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    try:
        needed = [Requirement(line) for line in requires(PROJECT) or []]
    except PackageNotFoundError:
        return warn("packages", f"{text}; {PROJECT} itself is not installed, so not compared", SET_UP)
    wrong = unmet(needed)
    return fail("packages", "; ".join(wrong), SET_UP) if wrong else ok("packages", text)


def unmet(needed: list[Requirement]) -> list[str]:
    """Which of the requirements that hold here, extras left out, the installed packages do not meet."""
    wrong = []
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        # pillow-simd takes Pillow's place, under another name.
        found = installed(requirement.name) or (installed("pillow-simd") if requirement.name == "pillow" else None)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found or 'not installed'}, needed {requirement.specifier}")
    return wrong


def _jpeg_decoder() -> Check:
    try:
        jpeg = importlib.import_module("trainer.jpeg")
    except (ImportError, OSError) as error:
        return fail("jpeg decoder", f"trainer.jpeg does not load: {error}", SET_UP)
    if jpeg.has_simd():
        return ok("jpeg decoder", "trainer.jpeg is built, with AVX2")
    return warn(
        "jpeg decoder", "trainer.jpeg is built, this CPU has no AVX2", "decoding takes its slower, portable path"
    )


def _pillow() -> Check:
    from PIL import __version__ as imported
    from PIL import features

    simd, plain = installed("pillow-simd"), installed("pillow")
    turbo = features.version("libjpeg_turbo") if features.check("libjpeg_turbo") else None
    found = f"{'pillow-simd' if simd else 'Pillow'} {imported}, {f'libjpeg-turbo {turbo}' if turbo else 'libjpeg'}"
    if simd and plain:
        return warn(
            "pillow", f"{found}; Pillow {plain} is installed over it or under it", f"uninstall both and {SET_UP}"
        )
    if turbo is None:
        return warn("pillow", f"{found}: not libjpeg-turbo, conversion decodes slowly", SET_UP)
    if not simd and platform.machine() == "x86_64":
        return warn("pillow", f"{found}: not pillow-simd, conversion resizes slowly", SET_UP)
    return ok("pillow", found)


def _ffcv(recipe: Recipe | None) -> Check:
    found = installed("ffcv")
    if found:
        return ok("ffcv", found)
    if recipe and recipe.data.engine == "ffcv":
        return fail("ffcv", "not installed, and data.engine is ffcv", f"take data.engine=native, or {SET_UP}")
    return ok("ffcv", "not installed; only needed for data.engine=ffcv, stock FFCV pipelines and benchmarks")


def _tensorboard(recipe: Recipe | None) -> list[Check]:
    if recipe is None or not recipe.log.tensorboard:
        return []
    found = installed("tensorboard")
    if found:
        return [ok("tensorboard", found)]
    return [fail("tensorboard", "not installed, and log.tensorboard is true", "pip install tensorboard")]
