"""The page in a browser: what it shows against pandas, what it asks of the network, and names that are scripts."""

import hashlib
import json
import os
import re
import shutil
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from xmbench.published import PAPERS
from xmbench.published.citations import bibtex, cited
from xmbench.registry import method_names
from xmbench.report import NothingToReport
from xmbench.report import page as page_module
from xmbench.report.groups import group_rows
from xmbench.report.page import write_page
from xmbench.report.page_arrays import GroupArrays, RunArrays, class_means
from xmbench.report.page_board import board
from xmbench.report.page_figures import noise_plot
from xmbench.report.page_plot import looks_of
from xmbench.report.page_text import embedded, plain

EVIL = "<script>alert(1)</script>"
METHODS = {"ce": 0.50, "mrl": 0.62, EVIL: 0.41, "mcca": 0.3}
RATES = (0.0, 0.2, 0.6)
DIRECTIONS = {"image2text": 0.0, "text2image": 0.1, "mean": 0.05}
BROWSER = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
BROWSER += " --disable-component-update --disable-sync"
CLASSES = ["art", "<i>biology</i>", "sport"]

CARD = pd.DataFrame(
    {
        "paper": ["mrl2021", "mrl2021", "lnc2024"],
        "label": ["deep-SM", EVIL, "NCR"],
        "published": [0.4, 0.514, 70.0],
        "ours": [0.3, 0.512, np.nan],
        "difference": [np.nan, -0.002, np.nan],
        "verdict": ["not attempted", "matches", "not attempted"],
        "reason": ["other features", "", "restricted data"],
    }
)


def run(method, rate, seed, **columns):
    """The columns that all rows of a run share."""
    base = {
        "status": "ok",
        "error": None,
        "dataset": "wikipedia",
        "dataset_params": "{}",
        "features": "image 128, text 10",
        "noise_scheme": "symmetric",
        "noise_rate": rate,
        "noise_seed": seed,
        "realised_rate": rate,
        "noise_sha": f"{rate:g}-{seed}",
        "noise_options": "{}",
        "method": method,
        "implementation": method,
        "method_version": "1",
        "source_sha": "abc",
        "params": "{}",
        "seed": seed,
        "protocol": "default",
        "protocol_sha": "0123456789abcdef",
        "valid_labels": "clean",
        "tuning": "none",
        "profile": "",
        "oracle": False,
        "from_description": False,
        "n_networks": 1,
        "trial": None,
        "fit_seconds": 12.5,
        "git_commit": "deadbeef" * 5,
        "device": "cpu",
        "versions": '{"torch": "2.9"}',
    } | columns
    return {"run_id": hashlib.sha256(json.dumps(base, sort_keys=True).encode()).hexdigest()[:16]} | base


def rows_of(facts, value, last=None, metric="map"):
    """Rows of the metric of a run in all directions, for both selections."""
    measured = {"split": "test", "network": "mean", "metric": metric, "chance": 0.1}
    return [
        facts | measured | {"selection": selection, "direction": direction, "value": base + offset}
        for selection, base in (("best_valid", value), ("last", value - 0.02 if last is None else last))
        for direction, offset in DIRECTIONS.items()
    ]


def arrays_of(value, rng, labels):
    """What a run keeps of 12 items in three classes."""
    recall = np.linspace(0, 1, 11)
    arrays = {"class_names": np.array(CLASSES), "history/epoch": np.arange(3.0), "history/loss": np.array([3.0, 2.0, 1.5])}
    arrays |= {"history/valid": np.array([0.2, value, 0.3])}
    for name in ("image", "text"):
        arrays |= {f"labels/test/{name}": labels, f"input/test/{name}": rng.normal(size=(12, 4)).astype(np.float16)}
        arrays[f"embedding/test/best_valid/mean/{name}"] = rng.normal(size=(12, 3)).astype(np.float16)
    for direction in ("image2text", "text2image"):
        for selection in ("best_valid", "last"):
            arrays[f"pr/test/{selection}/mean/{direction}"] = np.stack([recall, value * (1 - recall / 2), 12 * recall])
            arrays[f"per_query/test/{selection}/mean/{direction}/map"] = rng.random(12).astype(np.float32)
    return arrays


class FakeStore:
    """What a report reads of a store, in memory."""

    def __init__(self, rows, arrays):
        self._rows, self._arrays = pd.DataFrame(rows), arrays

    def rows(self):
        return self._rows

    def arrays(self, run_id):
        return self._arrays.get(run_id, {})


def value_of(method, rate, seed):
    """The planted MAP from image to text: mrl falls below mcca, which no noise touches, at the highest rate."""
    return METHODS[method] - (0.0 if method == "mcca" else 0.6 * rate) + 0.01 * seed


@pytest.fixture(scope="module")
def store():
    """Four methods, three rates and two seeds; one cell without the second seed, and a failed run."""
    rng, labels = np.random.default_rng(0), np.eye(3, dtype=bool)[np.arange(12) % 3]
    rows, arrays = [], {}
    for method in METHODS:
        for rate in RATES:
            for seed in (0, 1):
                facts = run(method, rate, seed)
                if (method, rate, seed) == ("ce", 0.6, 1):
                    facts |= {"status": "failed", "error": "Traceback\nValueError: <b>loss</b> is not finite"}
                    rows.append(facts | {"split": None, "value": np.nan, "metric": None})
                    continue
                rows += rows_of(facts, value_of(method, rate, seed))
                arrays[facts["run_id"]] = arrays_of(value_of(method, rate, seed), rng, labels)
    return FakeStore(rows, arrays)


@pytest.fixture(scope="module")
def file(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(store, store.rows(), path, CARD)
    return path


@pytest.fixture(scope="module")
def browser():
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    missing = [name for name, found in {"playwright": find_spec("playwright"), "Chromium": path}.items() if not found]
    if missing:
        (pytest.fail if "CI" in os.environ else pytest.skip)(f"the page is tested in a browser: not installed: {missing}")
    import playwright.sync_api as playwright

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=BROWSER.split())
        yield browser
        browser.close()


RESET = """() => {
    const byId = (id) => document.getElementById(id);
    document.querySelectorAll("details").forEach((node) => (node.open = false));
    byId("rate").value = 0;
    byId("rate").dispatchEvent(new Event("input"));
    document.querySelectorAll("input[value=best_valid], input[value=class]").forEach((node) => node.click());
    byId("group").dispatchEvent(new Event("change"));
}"""


class Tab:
    """A page, opened, with what it asked for and complained of."""

    def __init__(self, browser, path, **options):
        self.url = path.as_uri()
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"} | options)
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.set_default_timeout(60_000)
        self.page.goto(self.url)
        self.page.wait_for_selector("html[data-ready]", state="attached")

    def check(self):
        """Nothing was asked of the network, and nothing went wrong."""
        assert [url for url in self.asked if not url.startswith(("data:", "blob:"))] == [self.url]
        assert self.complaints == []

    def __enter__(self):
        return self.page

    def __exit__(self, *error):
        self.page.close()
        self.check()


@pytest.fixture(scope="module")
def tab(browser, file):
    return Tab(browser, file)


@pytest.fixture
def page(tab):
    """The page as it is when opened, but for what was typed to filter the runs."""
    tab.page.evaluate(RESET)
    yield tab.page
    tab.check()


def board_of(page):
    """The leaderboard's first column and MAP of image to text, as shown."""
    script = (
        "() => [...document.querySelectorAll('#board tbody tr')].map((row) => [...row.cells].map((cell) => cell.innerText))"
    )
    return [(cells[0], cells[1].split(" ")[0]) for cells in page.evaluate(script)]


def expected(store, rate, selection="best_valid", direction="image2text"):
    """Label and mean over the seeds, three digits, best average first: by pandas from the rows."""
    rows = store.rows()
    rows = rows[(rows["noise_rate"] == rate) & (rows["selection"] == selection)]
    means = rows.pivot_table(index="method", columns="direction", values="value").sort_values("mean", ascending=False)
    return [(method, f"{value:.3f}") for method, value in means[direction].items()]


def slide(page, to):
    """Move the slider by the keyboard, as far as it takes from the left."""
    page.locator("#rate").focus()
    page.keyboard.press("Home")
    for _ in range(to):
        page.keyboard.press("ArrowRight")


@pytest.mark.slow
@pytest.mark.parametrize(("place", "rate"), [*enumerate(RATES)])
def test_slider_by_keyboard_shows_the_numbers_of_its_rate(page, store, place, rate):
    slide(page, place)
    assert page.locator("#rate-shown").inner_text() == f"{rate:g}"
    assert board_of(page) == expected(store, rate)
    best, value = expected(store, rate, direction="mean")[0]
    assert f"noise rate {rate:g}, best epoch on validation; best: {best} with MAP {value}" in page.inner_text("#status")


@pytest.mark.slow
def test_last_epoch_is_another_number(page, store):
    page.get_by_role("radio", name="Last").check()
    assert board_of(page) == expected(store, 0.0, "last")
    assert board_of(page) != expected(store, 0.0)


@pytest.mark.slow
def test_sorting_by_a_column_head_with_the_keyboard(page, store):
    heads = page.locator("#board thead th")
    heads.nth(0).locator("[role=button]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#board th:nth-child(1)[aria-sort=ascending]")
    assert [label for label, _ in board_of(page)] == sorted(METHODS, key=str.lower)
    for order in ("descending", "ascending"):
        heads.nth(1).click()
        page.wait_for_selector(f"#board th:nth-child(2)[aria-sort={order}]")
        values = [float(value) for _, value in board_of(page)]
        assert values == sorted(values, reverse=order == "descending") and len(values) == len(METHODS)


@pytest.mark.slow
def test_what_the_filter_leaves_is_in_table_and_plots(page):
    page.locator("#leaderboard input[type=search]").fill("mc")
    assert [label for label, _ in board_of(page)] == ["mcca"]
    names = "() => document.getElementById('pr-plot').data.map((trace) => trace.name)"
    page.wait_for_function(f"() => ({names})().every((name) => name === 'mcca')")
    page.locator("#leaderboard input[type=search]").fill("no such method")
    page.wait_for_selector("#pr-empty:not([hidden])")
    assert page.inner_text("#pr-empty") == "None of the methods shown has this at this noise rate."
    page.locator("#leaderboard input[type=search]").fill("<script")
    assert [label for label, _ in board_of(page)] == [EVIL]


def traces(page, name):
    """What a plot shows: name, panel and numbers of each trace."""
    script = "(id) => document.getElementById(id).data.filter((t) => t.name).map((t) => [t.name, t.xaxis || 'x', t.y])"
    return {(name, axis): y for name, axis, y in page.evaluate(script, f"{name}-plot")}


@pytest.mark.slow
def test_plots_follow_the_slider(page, store):
    slide(page, 2)
    page.wait_for_function("() => document.getElementById('pr-plot').data[0].meta.rate === 2")
    curves = traces(page, "pr")
    for method in ("mrl", "mcca"):
        value = np.mean([value_of(method, 0.6, seed) for seed in (0, 1)])
        assert curves[method, "x"] == pytest.approx(value * (1 - np.linspace(0, 1, 11) / 2), abs=6e-4)
    assert traces(page, "training")["mrl", "x"] == pytest.approx([0.2, value_of("mrl", 0.6, 0), 0.3])
    noise = traces(page, "noise")["mrl", "x2"]  # text to image, at every rate whichever is chosen
    assert noise == pytest.approx([np.mean([value_of("mrl", rate, seed) + 0.1 for seed in (0, 1)]) for rate in RATES])


@pytest.mark.slow
def test_classes_are_those_of_the_queries(page, store):
    slide(page, 1)
    page.wait_for_function("() => document.getElementById('classes-plot').data[0].meta.rate === 1")
    runs = store.rows().query("method == 'mrl' and noise_rate == 0.2")["run_id"].unique()
    values = np.mean([store.arrays(run_id)["per_query/test/best_valid/mean/text2image/map"] for run_id in runs], axis=0)
    naive = [values[np.arange(12) % 3 == k].mean() for k in range(3)]
    shown = page.evaluate("() => document.getElementById('classes-plot').data.map((trace) => [trace.xaxis, trace.y, trace.z])")
    (rows,) = (dict(zip(y, z, strict=True)) for axis, y, z in shown if axis == "x2")
    assert rows["mrl"] == pytest.approx(naive, abs=6e-4)


@pytest.mark.slow
def test_tsne_is_coloured_by_class_or_by_modality(page):
    assert {name for name, _ in traces(page, "tsne")} == {"art", plain(CLASSES[1]), "sport"}
    page.get_by_role("radio", name="Modality").check()
    page.wait_for_function("() => document.getElementById('tsne-plot').data[0].name === 'image'")
    assert {name for name, _ in traces(page, "tsne")} == {"image", "text"}
    assert page.locator("#tsne-plot .legendtext").all_text_contents() == ["image", "text"]


@pytest.mark.slow
def test_a_name_that_is_a_script_stays_text_everywhere(page):
    assert EVIL in [label for label, _ in board_of(page)]
    assert EVIL in page.locator("#noise-plot .legendtext").all_text_contents()
    assert EVIL in page.locator("#classes-plot .ytick text").all_text_contents()
    assert CLASSES[1] in page.locator("#classes-plot .xtick text").all_text_contents()
    assert f"None is known of {EVIL}." in page.inner_text("#cite")
    page.locator("#pr-details summary").click()
    page.locator("#pr-data_wrapper input[type=search]").fill("alert")
    assert page.locator("#pr-data tbody td").first.inner_text() == EVIL
    page.locator("#runs-table thead th").nth(3).click()
    assert EVIL in page.locator("#runs-table tbody").inner_text()
    names = page.evaluate("() => document.getElementById('pr-plot').data.map((trace) => trace.name)")
    page.evaluate("(k) => Plotly.Fx.hover('pr-plot', [{ curveNumber: k, pointNumber: 3 }])", names.index(plain(EVIL)))
    assert EVIL in page.locator("#pr-plot .hoverlayer").text_content()
    assert page.locator("script").count() == 4 and page.locator("main script").count() == 0


@pytest.mark.slow
def test_data_tables_hold_what_the_plot_shows(page):
    page.locator("#noise-details summary").click()
    assert "12" not in page.locator("#noise-data thead").inner_text()
    n_rows = page.evaluate("() => document.querySelectorAll('#noise-data tbody tr').length")
    info = page.locator("#noise-data_wrapper .dt-info").inner_text()
    assert n_rows == 10 and "of 36 entries" in info  # four methods, three directions, three rates


@pytest.mark.slow
def test_details_of_a_failed_run_say_why(page):
    page.locator("#runs input[type=search]").fill("failed")
    page.locator("#runs button.open").focus()
    page.keyboard.press("Enter")
    details = page.locator("dl.run").inner_text()
    assert "ValueError: <b>loss</b> is not finite" in details and '{"torch": "2.9"}' in details and "deadbeef" * 5 in details
    assert page.locator("#runs button.open").get_attribute("aria-expanded") == "true"


@pytest.mark.slow
def test_scorecard_counts_verdicts_and_shows_what_was_compared_first(page):
    assert "Of 3 published numbers: not attempted 2, matches 1." in page.locator("#scorecard .note").inner_text()
    rows = page.locator("#scorecard-table tbody tr").all()
    cells = [row.locator("td").all_inner_texts() for row in rows]
    assert cells[0] == ["mrl2021", EVIL, "0.514", "0.512", "−0.002", "matches", ""]
    assert [row[1] for row in cells] == [EVIL, "deep-SM"]


@pytest.mark.slow
def test_remarks_tell_of_missing_seeds(page):
    slide(page, 2)
    row = page.locator("#board tbody tr", has=page.get_by_text("ce", exact=True))
    assert row.locator(".badge").all_inner_texts() == ["1 of 2 seeds", "failed 1"]


@pytest.mark.slow
def test_dark_follows_the_system_and_the_switch(browser, file):
    background = "() => getComputedStyle(document.body).backgroundColor"
    ink = "() => document.getElementById('noise-plot').layout.template.layout.font.color"
    with Tab(browser, file, color_scheme="dark") as page:
        dark = page.evaluate(background), page.evaluate(ink)
        page.get_by_role("button", name="Light").click()
        light = page.evaluate(background), page.evaluate(ink)
        assert dark == ("rgb(13, 17, 23)", "#e6edf3") and light == ("rgb(255, 255, 255)", "#1b1f24")


@pytest.mark.slow
def test_narrow_page_is_no_wider_than_the_screen(browser, file):
    with Tab(browser, file, viewport={"width": 400, "height": 800}) as page:
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 400


@pytest.mark.slow
def test_everything_has_a_name(page):
    for plot in page.locator("[role=img]").all():
        assert len(plot.get_attribute("aria-label")) > 30
        assert page.locator(f"#{plot.get_attribute('aria-describedby')}").inner_text()
    assert [page.get_by_role(role).count() for role in ("banner", "main", "contentinfo")] == [1, 1, 1]
    assert page.get_by_role("navigation", name="Sections").count() == 1
    unnamed = """() => [...document.querySelectorAll("input, select, button, [role=region], section, nav")].filter((node) =>
        !(node.ariaLabel || node.labels?.length || node.textContent.trim() || node.getAttribute("aria-labelledby")))
        .map((node) => node.outerHTML)"""
    assert page.evaluate(unnamed) == []
    levels = [int(node.evaluate("node => node.tagName")[1]) for node in page.locator("h1, h2, h3").all()]
    assert levels[0] == 1 and set(levels[1:]) == {2}
    assert page.locator("#status").get_attribute("role") == "status"  # what the slider changes is read out


@pytest.mark.slow
def test_tab_reaches_the_slider_and_the_table(page):
    reached = []
    page.locator(".skip").focus()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.closest('th, td')?.innerText"))
        width = page.evaluate("() => parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert width >= 1, reached[-1]
    assert {"theme", "group", "rate", "Method"} <= set(reached)


@pytest.mark.slow
def test_copied_bibtex_is_that_of_the_methods_shown(page):
    text = page.locator("#bibtex").inner_text()
    assert text.split() == bibtex(["xmbench", "wikipedia", *METHODS]).split()
    page.locator("#copy").click()
    page.wait_for_function("() => document.getElementById('status').textContent === 'BibTeX copied.'")


@pytest.mark.slow
def test_groups_have_tables_of_their_own(browser, tmp_path):
    """A second data set, of pairs alone and without arrays: recalls and rSum, and a sentence instead of curves."""
    facts = [run("vse", 0.2, seed, dataset="flickr8k", noise_scheme="caption_shuffle") for seed in (0, 1)]
    rows = [row for fact in facts for row in rows_of(fact, 250.0, metric="rsum")]
    rows += [row for fact in facts for row in rows_of(fact, 0.25, metric="r@1")]
    both = FakeStore([*rows, *rows_of(run("ce", 0.0, 0), np.nan), *rows_of(run("mrl", 0.0, 0), 0.5)], {})
    path = tmp_path / "page.html"
    write_page(both, both.rows(), path, CARD.assign(ours=np.nan))
    with Tab(browser, path) as page:
        page.locator("#group").select_option(index=0)
        assert page.locator("#board thead th").all_inner_texts()[:4] == [
            "Method", "Image → Text R@1", "Text → Image R@1", "rSum"
        ]  # fmt: skip
        assert page.locator("#board tbody td").all_inner_texts()[1:4] == ["25.0 ± 0.0", "35.0 ± 0.0", "250.1 ± 0.0"]
        assert page.locator("#rate").is_disabled()
        assert page.locator("#scorecard .note").inner_text() == "None of these runs is the counterpart of a published number."
        assert page.locator("#pr-empty").inner_text() == "These data have pairs and no classes."
        page.locator("#group").select_option(index=1)
        assert [label for label, _ in board_of(page)] == ["mrl", "ce"]
        assert board_of(page)[1][1] == "–"


def test_only_hashed_scripts_may_run(file):
    text = file.read_text("utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', text)
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy.split("style-src")[0] and "http" not in policy
    assert not re.search(r'(src|href)="(?!#|data:)', re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


def test_libraries_leave_room_for_a_thousand_runs(file):
    assert file.stat().st_size < 6e6  # of the eight million bytes that the page may have


def test_embedded_text_ends_no_script():
    value = {"</script>": ["\u2028", "<!--", "a & b"]}
    text = embedded(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_class_means_by_hand():
    """Query 0 is of classes 0 and 1, query 2 of none, query 3 has no value; class 2 has no query."""
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]], dtype=bool)
    runs = [
        RunArrays("ce", 0.2, str(seed), per_query={("last", "image2text"): np.array([0.4 + seed, 0.2, 0.9, np.nan])})
        for seed in (0, 1)
    ]
    means = class_means(GroupArrays(runs, {"image": labels}, []))
    assert means["ce", 0.2, "last", "image2text"] == pytest.approx([0.9, 0.55, np.nan], nan_ok=True)


def test_every_method_and_dataset_has_a_reference():
    from xmbench.datasets import dataset_names

    assert {*method_names(), *dataset_names()} <= cited()
    assert {"xmbench", *PAPERS} == cited() - {*method_names(), *dataset_names()}
    entries = bibtex(cited()).split("\n\n")
    assert len({entry.split(",")[0] for entry in entries}) == len(entries) and "names =" not in bibtex(cited())
    assert all(entry.count("{") == entry.count("}") and "title = {" in entry for entry in entries)


def test_best_methods_of_a_group_differ_in_colour(store):
    rows = [row for i in range(25) for row in rows_of(run(f"m{i:02}", 0.0, 0), 0.9 - i / 100)]
    groups = group_rows(pd.concat([store.rows(), pd.DataFrame(rows).assign(dataset="openmoji")]))
    looks = {look["name"]: look for look in looks_of(groups).traces()}
    assert len({looks[f"m{i:02}"]["marker"]["color"] for i in range(10)}) == 10
    drawn = [(json.dumps(looks[f"m{i:02}"]["marker"]), looks[f"m{i:02}"]["line"]["dash"]) for i in range(25)]
    assert len(set(drawn)) == 25


def data_of(path):
    """What the page's script reads."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    return json.loads(text)


def test_groups_beyond_those_that_have_a_tsne_say_so(store, tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MAX_PLOTS", 1)
    rows = store.rows().query("method == 'mrl' and noise_rate == 0.0 and seed == 0")
    bare = pd.DataFrame(rows_of(run("ce", 0.0, 0, dataset="nus_wide"), 0.5))
    both = FakeStore(pd.concat([rows, rows.assign(dataset="wikipedia_deep"), bare]), store._arrays)
    write_page(both, both.rows(), tmp_path / "page.html", CARD)
    groups = {part["title"].split()[0]: part for part in data_of(tmp_path / "page.html")["groups"]}
    assert [name for name, part in groups.items() if "tsne" in part["plots"]] == ["wikipedia"]
    assert "shows the t-SNE of its first few groups only" in groups["wikipedia_deep"]["empty"]["tsne"]
    assert groups["nus_wide"]["empty"]["tsne"].startswith("No run kept its embeddings")


def test_one_seed_has_no_spread(store):
    """ce at the highest rate has one seed, everything else two."""
    (group,) = group_rows(store.rows())
    looks = looks_of([group])
    (trace,) = (
        trace
        for trace in noise_plot(group, looks).traces
        if (trace.meta or {}).get("method") == looks.place["ce"] and trace.xaxis is None and trace.meta["selection"] == "last"
    )
    assert trace.text == (" ± 0.007", " ± 0.007", "") and trace.error_y.array[2] is None
    (alone,) = group_rows(store.rows().query("seed == 0"))
    traces = [trace for trace in noise_plot(alone, looks_of([alone])).traces if "method" in (trace.meta or {})]
    assert traces and all(trace.error_y.array is None and trace.hovertemplate is None for trace in traces)


def test_the_board_says_what_a_reader_must_know(store):
    rows = store.rows().copy()
    rows.loc[(rows["method"] == "mcca") & (rows["noise_rate"] == 0.2), "noise_sha"] += "x"
    (group,) = group_rows(rows.assign(profile="ci", valid_labels="noisy"))
    shown = board(group, group.labels)
    remarks = {group.labels[row[0]]: row[6] for row in shown["rows"]["best_valid"][1]}
    assert remarks == {EVIL: [], "ce": [], "mrl": [], "mcca": ["other noise draws"]}
    assert "epoch of the best validation MAP (noisy labels), profile ci" in shown["caption"]


def test_nothing_to_show_is_said(store, tmp_path):
    with pytest.raises(NothingToReport, match="a page needs a finished run"):
        write_page(store, store.rows().query("status != 'ok'"), tmp_path / "page.html", CARD)
    assert list(tmp_path.iterdir()) == []
