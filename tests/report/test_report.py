"""The page and its figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.report.run_folders import (
    CIFAR,
    IMAGENET,
    evaluation,
    make_recipe,
    start,
    train,
    write_evaluations,
    write_metrics,
    write_responses,
    write_run,
)
from trainer.__main__ import main
from trainer.report.command import report
from trainer.report.html import Html, table, tag

VOID = ("img", "meta")


class Page(HTMLParser):
    """What a browser makes of a page: its text, its elements, and whether they are closed in turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + " "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def read_page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def begun(folder: Path, *overrides: str) -> Path:
    make_recipe(folder, *CIFAR, "model.name=cifar_resnet20", *overrides)
    return write_metrics(folder, start())


def cifar(folder: Path, model: str = "cifar_resnet20", floor: float = 0.08) -> Path:
    return write_run(folder, *CIFAR, f"model.name={model}", floor=floor)


def assert_needs_nothing_else(path: Path, figures: int) -> None:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    images = page.all("img")
    assert len(images) == figures
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert not page.all("script")
    assert not page.all("link")
    assert "http:" not in text
    assert "https:" not in text


def pngs(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.png")}


@settings(deadline=None, max_examples=50)
@given(st.text())
def test_text_is_escaped_and_markup_is_not_escaped_twice(text: str) -> None:
    text = text.replace("\r", "")  # which parsers of HTML turn into line feeds
    page = Page(tag("p", tag("b", text), title=text))
    assert page.text.strip() == text.strip() or "\0" in text
    assert [name for name, _ in page.tags] == ["p", "b"]
    assert page.tags[0][1]["title"] == text or "\0" in text


def test_cells_that_are_markup_are_taken_as_they_are() -> None:
    made = table(["<a>", "b"], [["<td>", tag("td", "&", class_="x")]], numbers=(0,))
    assert isinstance(made, Html)
    assert '<th class="number">&lt;a&gt;</th><th>b</th>' in made
    assert '<td class="number">&lt;td&gt;</td><td class="x">&amp;</td>' in made


def test_one_run_is_reported_in_its_own_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = cifar(tmp_path / "net")
    report([run])
    assert pngs(run / "report") == {"curves.png", "loss.png", "progress.png"}
    assert sorted(path.name for path in (run / "report").iterdir())[-1] == "progress.png"  # nothing unfinished
    with Image.open(run / "report" / "curves.png") as image:
        assert image.width == 1280
    page = read_page(run / "report")
    for text in (
        "cifar_resnet20, option A",
        "64,000 of 64,000",
        "8.75",
        "learning rate drops to 0.01",
        "torch 2.9.0",
        "GPU of a test",
    ):
        assert text in page.text
    assert_needs_nothing_else(run / "report" / "index.html", figures=3)
    out = capsys.readouterr().out
    assert "passes over the data" in out
    assert "8192 of 8192" in out
    assert "the paper's on CIFAR-10: top-1 8.75 %" in out
    assert f"report: {run}/report/index.html" in out


def test_plain_and_residual_networks_with_responses_and_evaluations(tmp_path: Path) -> None:
    plain, residual = cifar(tmp_path / "plain", "cifar_plain20", 0.1), cifar(tmp_path / "net")
    write_responses(residual, [0.5, 0.4, 0.3])
    write_evaluations(residual, evaluation("center", 0.0875, images=10_000, samples=64_000 * 128))
    report([plain, residual], tmp_path / "out")
    assert pngs(tmp_path / "out") == {"curves.png", "training.png", "loss.png", "progress.png", "responses.png"}
    text = read_page(tmp_path / "out").text
    assert "8.75 [8.45, 9.05]" in text
    assert "+0.00" in text
    assert "Table 6" in text


def test_what_differs_from_the_paper_is_marked(tmp_path: Path) -> None:
    run = begun(tmp_path / "net", "optimizer.lr=0.05")
    report([run])
    text = (run / "report" / "index.html").read_text()
    assert re.findall('<td class="differs">(.*?)</td>', text) == ["0.05"]


def test_runs_of_other_data_have_figures_of_their_own(tmp_path: Path) -> None:
    runs = [begun(tmp_path / "small"), write_run(tmp_path / "large", *IMAGENET, "model.name=resnet50")]
    report(runs, tmp_path / "out")
    page = read_page(tmp_path / "out")
    assert len(page.all("section")) == 2
    assert pngs(tmp_path / "out") == {"curves-2.png", "loss-2.png", "progress-2.png"}


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    report([begun(tmp_path / "run")])
    text = read_page(tmp_path / "run" / "report").text
    assert "Nothing has been logged yet." in text
    assert "No validation yet." in text
    assert pngs(tmp_path / "run" / "report") == set()


def test_faults_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_recipe(folder, *CIFAR, "model.name=cifar_resnet20")
    bad = [{"kind": "nonfinite", "samples": 256, "step": step, "loss": "nan", "sample_ids": [1]} for step in range(30)]
    lines = [start(), train(128, 0.9), train(256, 0.9, loss=None, skipped=3), *bad, start(256), train(384, 0.9)]
    report([write_metrics(folder, *lines)])
    text = read_page(folder / "report").text
    for event in ("started", "resumed", "3 samples did not decode and were replaced, until step 2", "the loss is nan"):
        assert event in text
    assert "10 more steps" in text


def test_names_are_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / '<b>$x_1$ & "y" [bold]', *CIFAR, "model.name=cifar_resnet20", share=0.1)
    report([run])
    page = read_page(run / "report")
    assert run.name in page.text
    assert not page.all("b")
    assert f"Run {run.name}" in capsys.readouterr().out


def test_a_report_is_replaced_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    run, out = begun(tmp_path / "net"), tmp_path / "out" / "deep"
    report([run], out)
    for name in ("notes.txt", "curves.png"):
        (out / name).write_text("before")
    cifar(run)
    report([run], out)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "Nothing has been logged yet." not in read_page(out).text
    assert (out / "notes.txt").read_text() == "before"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: not a run folder"),
        (["a", "b"], "2 runs: say with --out DIR where"),
        (["a", "--out", "file"], "file/index.html: cannot write into"),
        (["a", "--out", "file/below"], "file/below/index.html: cannot write into"),
        (["a"] * 9, "9 runs, expected at most 8"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        begun(Path(name))
    Path("file").write_text("")
    assert main(["report", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {message}")
    assert told.count("\n") == 1
