"""The figures and the page of a run, from arrays like those of the main job: what they show, what they leave out, and what
they must survive."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from report_data import imitation

from jaxsde.errors import ExperimentError
from jaxsde.report import covariances, page, plots, shapes, style, tables

Run = tuple[dict[str, np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Run:
    return imitation()


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("a run é")
    save(made, *run)
    page.write(made)
    return made


def save(folder: Path, arrays: dict[str, np.ndarray], result: dict[str, Any], config: str = "seed = 0\n") -> None:
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)
    (folder / "result.json").write_text(json.dumps(result, allow_nan=False))
    (folder / "config.toml").write_text(config)


def copied(result: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(result))


class Parsed(HTMLParser):
    """The tags, ids, links and words of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words[1:]).split())


# Figures


@pytest.mark.parametrize("name", plots.FIGURES)
def test_each_figure_states_its_finding_and_stays_in_its_palette(run: Run, name: str) -> None:
    figure = plots.FIGURES[name](*run)
    assert figure is not None
    assert figure.get_size_inches()[0] == (9.6 if name == "summary" else style.WIDTH)
    assert len(str(figure.get_label())) > 40
    svg = style.files(figure)["svg"].decode()
    used = set(re.findall(r"#[0-9a-f]{6}\b", svg))
    # whatever is not in the palette would not follow the reader's light or dark setting
    assert used <= {light for light, _ in style.COLOURS.values()}, used
    assert "<text" not in svg  # outlines: no font is needed where it is read


@pytest.mark.parametrize("features", [("s3",), ("bmi", "bp", "s5"), ("age", "bmi", "bp", "s3", "s4", "s5")])
def test_other_dimensions_are_drawn(features: tuple[str, ...]) -> None:
    arrays, result = imitation(chains=128, steps=60, features=features)
    drawn = page.draw(arrays, result)
    assert not [f["missing"] for f in drawn.values() if "missing" in f]
    assert Parsed(page.render(result, arrays, "", drawn)).text


def test_nothing_lies_outside_the_paper(run: Run) -> None:
    for name, draw in plots.FIGURES.items():
        figure = draw(*run)
        assert figure is not None
        with style.styled():
            tight, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert tight.x0 >= 0 and tight.y0 >= 0 and tight.x1 <= width and tight.y1 <= height, name


def test_the_same_arrays_give_the_same_bytes_whatever_the_users_settings(run: Run) -> None:
    first = style.files(plots.covariance(*run))
    odd = {
        "axes.facecolor": "red",
        "svg.fonttype": "none",
        "font.size": 20.0,
        "savefig.bbox": "tight",
        "svg.hashsalt": None,
    }
    with matplotlib.rc_context(odd):
        before = dict(matplotlib.rcParams)
        again = style.files(plots.covariance(*run))
        assert dict(matplotlib.rcParams) == before
    assert first == again
    assert b"<dc:date>" not in first["svg"]


def test_contours_hold_the_mass_they_say() -> None:
    x = np.linspace(-6, 6, 241)
    cov = np.array([[1.0, 0.6], [0.6, 0.8]])
    inverse = np.linalg.inv(cov)
    a, b = np.meshgrid(x, x, indexing="ij")
    height = np.exp(-(inverse[0, 0] * a * a + 2 * inverse[0, 1] * a * b + inverse[1, 1] * b * b) / 2)
    masses = height / height.sum()
    for level, share in zip(shapes.levels(height, masses), sorted(style.MASSES, reverse=True), strict=True):
        assert masses[height >= level].sum() == pytest.approx(share, abs=2e-3)
        # of a Gaussian these are the ellipses at 1, 2 and 3 sd
        assert np.sqrt(-2 * np.log(level)) == pytest.approx(style.MASSES.index(share) + 1, abs=0.02)
    assert shapes.smooth(masses).sum() == pytest.approx(1.0)


def test_an_ellipse_is_at_one_standard_deviation() -> None:
    cov = np.array([[2.0, -0.7], [-0.7, 0.5]])
    points = covariances.ellipse(cov, 40)
    assert points is not None
    assert np.einsum("ik,ij,jk->k", points, np.linalg.inv(cov), points) == pytest.approx(1.0)
    assert points[0].max() == pytest.approx(np.sqrt(2.0), rel=0.01)
    assert covariances.ellipse(np.array([[1.0, 2.0], [2.0, 1.0]]), 40) is None  # no covariance


def test_labels_beside_lines_keep_apart(run: Run) -> None:
    figure = plots.kl_over_time(*run)
    assert figure is not None
    with style.styled():
        figure.canvas.draw()
        boxes = sorted((t.get_window_extent() for t in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 6
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_long_series_are_thinned_and_never_averaged(run: Run) -> None:
    arrays = dict(run[0])
    time = np.arange(1, 5001) * 0.05
    values = np.random.default_rng(0).uniform(0.3, 0.5, 5000)
    arrays |= {"time": time, "sgd_time": time, "sgd_kl_time": values, "sgd_kl_time_stderr": np.full(5000, np.nan)}
    figure = plots.kl_over_time({k: v for k, v in arrays.items() if not re.match(r"(sde|frozen|langevin)_", k)}, run[1])
    assert figure is not None
    x, y = figure.axes[0].lines[0].get_data()
    assert 50 <= len(x) <= 70 and x[0] == time[0] and x[-1] == time[-1]
    assert set(y) <= set(values)


def test_series_with_gaps_zeros_and_nothing_at_all(run: Run) -> None:
    arrays = dict(run[0])
    holes = arrays["langevin_kl_time"].copy()
    holes[::3], holes[1::3] = np.nan, -1e-4
    figure = plots.kl_over_time(arrays | {"langevin_kl_time": holes}, run[1])
    assert figure is not None and figure.axes[0].get_ylim()[0] > 1e-8
    assert style.files(figure)
    gone = {f"{p}_kl_time": np.full_like(holes, np.nan) for p in style.PROCESSES}
    assert plots.kl_over_time(arrays | gone, run[1]) is None


def test_a_loss_that_falls_far_is_drawn_on_a_logarithm(run: Run) -> None:
    arrays = dict(run[0])
    fall = arrays["min_loss"] + 5 * np.exp(-arrays["time"]) + 0.02
    figure = plots.mean_loss(arrays | {"sgd_loss_time": fall}, run[1])
    assert figure is not None and figure.axes[0].get_yscale() == "log"
    assert plots.mean_loss(*run).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.05, "0.0500"), (0.39712, "0.397"), (160.0, "160"), (-2.5e-9, "−2.50·10⁻⁹"), (3.1e8, "3.10·10⁸"), (0.9996, "1.00"),
     (0.0, "0"), (float("nan"), "unknown"), (None, "unknown")],
)  # fmt: skip
def test_numbers(value: float | None, shown: str) -> None:
    assert style.number(value) == shown


def test_intervals_have_the_digits_that_they_allow() -> None:
    assert style.interval({"value": 0.39823, "low": 0.39408, "high": 0.40238}) == "0.398 [0.394, 0.402]"
    assert style.interval({"value": 0.020734, "low": 0.020661, "high": 0.020808}) == "0.02073 [0.02066, 0.02081]"
    assert style.interval({"value": None, "low": None, "high": None}) == "unknown"
    assert style.interval({"value": 2.0, "low": None, "high": None}) == "2.00"
    assert style.interval(True) == "unknown"


# The page


def test_the_page_stands_alone_and_can_be_read_out(folder: Path, run: Run) -> None:
    html = (folder / "report.html").read_text(encoding="utf-8")
    parsed = Parsed(html)
    tags = [tag for tag, _ in parsed.tags]
    assert not {"script", "link", "iframe", "object", "embed"} & set(tags)
    assert not re.search(r"(src|href|action)=\"(?!#)", html) and "@import" not in html and "url(http" not in html
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = set(re.findall(r"url\(#([^)]*)\)", html)) | set(re.findall(r"href=\"#([^\"]*)\"", html))
    assert links and links <= set(ids)
    pictures = [attributes for tag, attributes in parsed.tags if tag == "svg"]
    assert len(pictures) == len(plots.FIGURES)
    assert all(len(str(p.get("aria-label"))) > 40 and p.get("role") == "img" for p in pictures)
    assert not re.search(r"#(22272e|ffffff)\b", html[html.index("<body") :])  # colours are the page's
    assert ("html", {"lang": "en"}) in parsed.tags
    # the sentence comes first, and nothing of Python's is left in the words
    assert parsed.text.index(run[1]["verdict"]["sentence"]) < parsed.text.index("How far from Gibbs")
    assert not re.search(r"\b(nan|None|True|False|inf|Undefined)\b", parsed.text)


def test_each_reason_stands_beside_its_figure(folder: Path) -> None:
    text = Parsed((folder / "report.html").read_text(encoding="utf-8")).text
    covariance, noise = text.index("Covariances "), text.index("The gradient noise ")
    assert covariance < text.index("anisotropic noise (holds)") < text.index("finite learning rate (holds)") < noise
    assert text.index("steps are not Gaussian (holds)") > noise


def test_the_numbers_of_the_result_are_in_the_tables(folder: Path, run: Run) -> None:
    text = Parsed((folder / "report.html").read_text(encoding="utf-8")).text
    for process in style.PROCESSES:
        assert style.interval(run[1]["kl"][process], 4) in text
    assert style.interval(run[1]["temperature"]["fit"], 4) in text
    assert "SDE: narrower boxes would do better." in text
    assert "Var s3 Cov s3, s4 Var s4" in text
    assert "jaxsde run config.toml --out runs/diabetes-squared_error-again" in text
    assert "kT = η/2" in text and "0.10.2" in text and "stream of the draws xoshiro128+" in text


def test_files_are_whole_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    written = page.write(again)
    assert {p.relative_to(again) for p in written} == {
        *(Path("figures") / f"{name}.{kind}" for name in plots.FIGURES for kind in ("svg", "png")),
        Path("report.html"),
    }
    assert all(p.read_bytes() == (folder / p.relative_to(again)).read_bytes() for p in written)
    assert not list(again.rglob("*.part"))


HOSTILE = "<script>alert('x')</script>$a$ {{ 7*7 }} \u202e\x1b[31m\n\\frac &amp; --> ]]>"


def test_what_users_name_is_shown_and_never_run(run: Run, tmp_path: Path) -> None:
    arrays, result = dict(run[0]), copied(run[1])
    arrays["names"] = np.array([HOSTILE, "価格 $x$ y$"])
    result["experiment"] = HOSTILE
    result["verdict"]["sentence"] = HOSTILE
    result["verdict"]["reasons"][0] |= {"name": HOSTILE, "sentence": HOSTILE, "figure": "../../etc/passwd"}
    result["kl"]["sde"] = {"value": None, "reason": HOSTILE}
    result["versions"][HOSTILE] = HOSTILE
    save(tmp_path, arrays, result, f"# {HOSTILE}\n</pre><script>")
    written = page.write(tmp_path)
    assert len(written) == 2 * len(plots.FIGURES) + 1
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (
        "<script" not in html
        and "{{" not in html.replace("{{ 7*7 }}", "")
        and "49" not in re.findall(r"\$a\$ (\d+)", html)
    )
    assert "&lt;script&gt;alert(" in html
    assert "could not be drawn" not in html
    assert "Other reasons" in html  # a reason whose figure is none of ours


def test_unknown_numbers_come_with_their_reason(run: Run) -> None:
    arrays, result = dict(run[0]), copied(run[1])
    nothing = {"value": None, "low": None, "high": None, "reason": "the law is not stationary yet"}
    result["kl"] = dict.fromkeys(result["kl"], nothing)
    result["temperature"] = {"fit": nothing, "predicted": {"value": None, "reason": "no minimum"}}
    result["covariance"]["theory_sgd"] = {"value": None, "reason": "beyond the edge of stability"}
    result["verdict"] |= {"stationary": "no", "gibbs": None, "reasons": []}
    text = Parsed(page.render(result, arrays, "", page.draw(arrays, result))).text
    for words in (
        "unknown: the law is not stationary yet",
        "unknown (no minimum)",
        "SGD, theory: beyond the edge of stability",
    ):
        assert words in text
    assert "Gibbs? undecided" in text
    assert not re.search(r"\b(nan|None|0 nats)\b", text)


def test_what_cannot_be_drawn_is_left_out_and_said(run: Run) -> None:
    result = copied(run[1])
    names = {"names", "processes"}
    drawn = page.draw({k: v for k, v in run[0].items() if k in names}, result)
    text = Parsed(page.render(result, {}, "", drawn)).text
    for name, words in plots.NEEDS.items():
        assert f"The figure “{name}” is left out: it needs {words}" in text
    broken = page.draw(run[0] | {"sgd_cov": np.full((2, 2), np.nan), "noise_std": np.zeros((9, 2))}, result)
    assert "svg" in broken["density"] and "could not be drawn" in broken["noise"]["missing"]
    assert Parsed(page.render({"ok": False, "error": "all chains diverged"}, {}, "", {})).text.count(
        "all chains diverged"
    )


def test_divergence_is_told(run: Run) -> None:
    told = {"count": 12, "fraction": 0.012, "first_step": 310, "note": "left out of the statistics"}
    text = Parsed(page.render(copied(run[1]) | {"diverged": {"sgd": told, "sde": {"count": 0}}}, {}, "", {})).text
    assert "SGD: 12 chains diverged (1.2 % of them), the first at step 310; left out of the statistics." in text
    assert "SDE: 0" not in text


@pytest.mark.parametrize("result", [{}, {"kl": 3, "verdict": [], "covariance": "x", "temperature": None, "notes": 1}])
def test_a_result_of_another_kind_gives_a_poor_page_and_no_fault(result: dict[str, Any]) -> None:
    assert "This run has no verdict." in page.render(result, {}, "", page.draw({}, result))
    assert tables.covariance(result, {}) == {"heads": [], "rows": [], "unknown": []}


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda f: (f / "result.json").unlink(), 66),
        (lambda f: (f / "arrays.npz").unlink(), 66),
        (lambda f: (f / "result.json").write_text("[1, 2"), 65),
        (lambda f: (f / "result.json").write_bytes(b"\xff\xfe{}"), 65),
        (lambda f: (f / "result.json").write_text("[1]"), 65),
        (lambda f: (f / "arrays.npz").write_bytes((f / "arrays.npz").read_bytes()[:5000]), 65),
        (lambda f: (f / "arrays.npz").write_bytes(b"no zip"), 65),
        (lambda f: np.savez(f / "arrays.npz", names=np.array([{}], dtype=object)), 65),  # a pickle
        (lambda f: np.save((f / "arrays.npz").open("wb"), np.zeros(3)), 65),
    ],
)
def test_a_damaged_folder_is_refused(run: Run, tmp_path: Path, damage: Any, code: int) -> None:
    save(tmp_path, *run)
    damage(tmp_path)
    with pytest.raises(ExperimentError) as refused:
        page.write(tmp_path)
    assert refused.value.code == code
    assert not (tmp_path / "report.html").exists()


def test_the_report_needs_neither_jax_nor_the_engine_nor_pyplot() -> None:
    asked = "import sys, jaxsde.report.page; print([m for m in ('jax', 'jaxsde.engine', 'matplotlib.pyplot') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and not done.stderr
