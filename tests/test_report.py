"""The report stands alone, shows every customer, and never invents a number."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.consistency.opis import Opis
from pipeline.reports import numerals
from pipeline.reports.report import render, write_report
from pipeline.statistics.intervals import UNKNOWN, Interval
from tests.made_report import CATEGORIES, content, evaluation, unknown

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Tags with attributes, and the text of every table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.tags[-1][0] in ("td", "th") and data.strip():
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        (found,) = [row[1:] for row in self.rows if row[0] == name]
        return found

    def figures(self) -> list[ET.Element]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        prefix = "data:image/svg+xml;base64,"
        assert all(source and source.startswith(prefix) for source in sources)
        return [ET.fromstring(base64.b64decode(source[len(prefix) :])) for source in sources]


def words(figure: ET.Element) -> list[str]:
    return ["".join(text.itertext()).strip() for text in figure.iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def whole() -> str:
    return render(content(evaluation(), evaluation(title="base alone", spread=0.06, served=70)))


def test_nothing_is_fetched_and_nothing_runs(whole):
    page = Page(whole)
    assert {"script", "link", "iframe", "object", "form"}.isdisjoint(tag for tag, _ in page.tags)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "srcset", "action", "background", "data"):
            assert name not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
    assert "@import" not in whole
    assert "url(" not in whole
    assert "http" not in re.sub(r'http-equiv="Content', "", whole)
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_figures_refer_only_to_themselves(whole):
    for figure in Page(whole).figures():
        for element in figure.iter():
            assert element.tag not in (f"{SVG}script", f"{SVG}image", f"{SVG}foreignObject")
            for name, value in element.attrib.items():
                if name.endswith("href"):
                    assert value.startswith("#")
                assert all(target.startswith("#") for target in re.findall(r"url\(([^)]+)", value))


def test_the_curves_name_their_axes_customers_and_both_thresholds(whole):
    shown = words(Page(whole).figures()[0])
    assert {*CATEGORIES, "mean over customers", "0.1200", "0.3370"} <= set(shown)
    assert shown.count("served threshold") == 2
    assert shown.count("threshold (cosine distance)") == 2
    assert any(text.startswith("utility") for text in shown)
    assert [text for text in shown if "OPIS" in text] == [
        "base + TCM: OPIS 0.74 · 10⁻³, raw",
        "base alone: OPIS 2.98 · 10⁻³, raw",
    ]


def test_a_curve_is_drawn_for_each_customer_and_their_mean_in_colours_of_their_own(whole):
    figure = Page(whole).figures()[0]
    styles = [path.get("style", "") for path in figure.iter(f"{SVG}path")]
    for panel in (1, 2):
        group = next(g for g in figure.iter(f"{SVG}g") if g.get("id") == f"axes_{panel}")
        drawn = [p.get("style", "") for p in group.iter(f"{SVG}path")]
        colours = {c for s in drawn for c in re.findall(r"stroke: (#[0-9a-f]{6})", s)}
        assert {"#332288", "#cc6677", "#117733", "#b00020"} <= colours
        assert len(colours - {"#000000", "#e6e6e6", "#b00020", "#e08214"}) == len(CATEGORIES)
    assert sum("stroke-dasharray" in style for style in styles) >= 12


def test_the_rates_name_every_customer_and_their_units(whole):
    shown = words(Page(whole).figures()[1])
    assert {*CATEGORIES, "mean over customers", "0.1 %", "100 %", "0 %"} <= set(shown)
    assert "FAR: negative pairs accepted" in shown


def test_the_tables_hold_the_numbers_that_were_given(whole):
    page = Page(whole)
    assert page.row("Threshold (cosine distance)") == ["0.120000", "0.337000"]
    assert page.row("FRR, mean over customers") == ["35.00 % [31.00, 39.00]"] * 2
    assert page.row("OPIS, corrected for noise (10⁻³)") == ["0.90 [0.40, 1.40]"] * 2
    assert page.row("R@1, nearest item of another vendor") == ["56.40 %"] * 2
    worst = "10 %-OPIS, OPIS of the worst minus OPIS of the rest, raw; corrected (10⁻³)"
    assert page.row(worst) == ["1.00; -0.50"] * 2
    spread = "FRR spread over the range, mean squared gap, raw; corrected (10⁻³)"
    assert page.row(spread) == ["0.90; 0.80"] * 2
    assert page.row("model.onnx") == ["ab" * 32]
    assert "paired: -1.10 [-1.60, -0.50] · 10⁻³" in whole
    assert "widened so that it holds the threshold" in whole
    assert "FAR of at most 0.001, mean over the customers" in whole
    assert "FAR &lt;= 1e-3." in whole
    for point in evaluation().customers:
        assert page.row(point.name)[0] == str(point.identities)


def test_customers_stand_in_the_order_of_their_utility_the_unknown_last():
    served = evaluation()
    customers = (unknown(served.customers[0]), *served.customers[1:])
    page = Page(render(content(dataclasses.replace(served, customers=customers))))
    names = [row[0] for row in page.rows if row[0] in CATEGORIES]
    known = sorted(customers[1:], key=lambda point: point.utility)
    assert names == [*(point.name for point in known), customers[0].name]


def test_an_unknown_number_is_a_dash_in_tables_and_said_so_in_figures():
    served = evaluation()
    nothing = np.full_like(served.utility, np.nan)
    nobody = dataclasses.replace(
        served,
        utility=nothing,
        overall=unknown(served.overall),
        customers=tuple(unknown(point) for point in served.customers),
        opis=Opis(math.nan, UNKNOWN, 0, 0),
        inconsistency=(UNKNOWN,) * 9,
        recall_at_1=math.nan,
        recall_at_1_across=math.nan,
    )
    text = render(content(nobody, nobody, opis_difference=UNKNOWN))
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)
    page = Page(text)
    assert page.row("Flags") == ["0", "—", "—", "—", "—", "—"]
    for name in ("FAR, mean over customers", "FRR, lowest and highest customer"):
        assert page.row(name) == ["—", "—"]
    curves, rates = (words(figure) for figure in page.figures())
    assert curves.count("no customer with positive pairs") == 2
    assert rates.count("n/a") == 3 * (len(CATEGORIES) + 1)
    assert not any("nan" in word.lower() for word in curves + rates)


def test_extremes_that_nobody_measured_have_no_row():
    plain = dataclasses.replace(evaluation(), eps=None, spreads=None)
    text = render(content(plain))
    assert "10 %-OPIS" not in text
    assert "spread" not in text
    page = Page(render(content(plain, evaluation())))
    form = "10 %-OPIS, mean squared gap of the worst to the best, raw; corrected (10⁻³)"
    assert page.row(form) == ["—", "5.00; 4.00"]


def test_a_recall_that_nobody_measured_has_no_row():
    served = dataclasses.replace(evaluation(), recall_at_1_across=math.nan)
    assert "another vendor" not in render(content(served))
    assert "another vendor" in render(content(served, evaluation()))


def test_a_customer_without_a_curve_is_named_below_the_figure():
    served = evaluation()
    utility = served.utility.copy()
    utility[2, 50] = np.nan
    text = render(content(dataclasses.replace(served, utility=utility)))
    assert "hence without a curve: Flags." in text
    shown = words(Page(text).figures()[0])
    assert "Flags" not in shown
    assert {*CATEGORIES} - {"Flags"} <= set(shown)


def test_many_customers_stay_legible_and_all_are_in_the_table():
    names = tuple(f"a company with a long name and a branch, {i:03d}" for i in range(80))
    page = Page(render(content(evaluation(names))))
    assert sum(row[0] in names for row in page.rows) == 80
    curves, rates = page.figures()
    cut = {f"a company with … branch, {i:03d}" for i in range(80)}
    assert sum(word in cut for word in words(curves)) == 9
    assert "71 other customers" in words(curves)
    assert sum(word in cut for word in words(rates)) == 30
    assert max(len(word) for word in words(curves) + words(rates)) <= 45
    height = float(rates.get("height", "").removesuffix("pt"))
    assert height / 31 > 20  # points a row


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>", '"><img src=x onerror=y>', "$x_1$ & co", "_other", "日本語"],
)
def test_a_name_is_shown_as_it_is_whatever_it_holds(name, recwarn):
    text = render(content(evaluation((name, "other")), name=name, notes=(name,)))
    page = Page(text)
    assert {"script"}.isdisjoint(tag for tag, _ in page.tags)
    assert sum(tag == "img" for tag, _ in page.tags) == 2
    assert name in [row[0] for row in page.rows]
    assert [name in words(figure) for figure in page.figures()] == [True, True]
    assert not recwarn.list


def test_equal_numbers_give_equal_bytes_at_any_time(tmp_path, monkeypatch):
    write_report(tmp_path / "first.html", content(evaluation()))
    monkeypatch.setattr(time, "time", lambda: 2e9)
    write_report(tmp_path / "second.html", content(evaluation()))
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.html", "second.html"]


def test_a_far_of_zero_has_a_place_in_the_figure():
    served = evaluation()
    none = Interval(0.0, 0.0, 0.05)
    customers = tuple(dataclasses.replace(point, far=none) for point in served.customers)
    overall = dataclasses.replace(served.overall, far=Interval(0.0, 0.0, 0.0))
    page = Page(render(content(dataclasses.replace(served, customers=customers, overall=overall))))
    assert page.row("Flags")[1] == "0.00 % [0.00, 5.00]"
    assert "0 %" in words(page.figures()[1])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.00 %"), (1e-3, "0.10 %"), (9.76e-5, "0.0098 %"), (1.0, "100.00 %"),
        (0.98765, "98.77 %"), (math.nan, "—"),
    ],
)  # fmt: skip
def test_shares_keep_their_digits_where_they_are_small(value, expected):
    assert numerals.share(value) == expected


def test_an_interval_that_is_unknown_is_left_out():
    assert numerals.share_interval(Interval(0.5, math.nan, math.nan)) == "50.00 %"
    assert numerals.thousandths_interval(Interval(-2e-4, math.nan, math.nan)) == "-0.20"
    assert numerals.share_range([math.nan]) == "—"
    assert numerals.share_range([0.5, math.nan, 0.0]) == "0.00 to 50.00 %"
