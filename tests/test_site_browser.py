"""The site in headless Chromium: no errors, no network, no sideways scrolling, no dead links, keyboard alone."""

import shutil
from urllib.parse import unquote, urlsplit

from lib import project, site

import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from scipy import stats
from test_site import build

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = ("index", "compare", "01_first", "03_third")
WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: install the package chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(project.ROOT))
        return build(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(params=[(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def screen(request, browser):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    yield context.new_page()
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_page(screen, folder, name):
    complaints = []
    screen.on("console", lambda message: complaints.append(message.text))
    screen.on("pageerror", lambda error: complaints.append(str(error)))
    screen.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    screen.goto((folder / f"{name}.html").as_uri())
    if name.startswith("0"):
        screen.click("#all-code")  # what is folded must be sound, too
        screen.click(".about summary")
        assert screen.evaluate("[...document.querySelectorAll('details.code')].every(code => code.open)")
    assert complaints == []
    assert screen.evaluate("document.documentElement.scrollWidth") <= screen.viewport_size["width"]
    assert screen.evaluate("[...document.images].every(image => image.alt && image.naturalWidth)")
    violations = Axe().run(screen, options=WCAG).response["violations"]
    assert [(found["help"], found["nodes"][0]["html"]) for found in violations] == []


def test_what_goes_on_to_the_right_is_faded_there(screen, folder):
    screen.goto((folder / "01_first.html").as_uri())
    table = screen.locator(".scroll:has(> table.dataframe)")
    table.and_(screen.locator(".more")).wait_for()
    table.evaluate("box => box.scrollLeft = box.scrollWidth")
    screen.locator(".scroll:not(.more):has(> table.dataframe)").wait_for()


def test_a_long_table_is_scrolled_below_its_head(screen, folder, tmp_path):
    row = "<tr><td>A1</td><td>70</td></tr>"
    table = f"<table><thead><tr><th>name</th><th>number</th></tr></thead><tbody>{row * 60}</tbody></table>"
    path = tmp_path / "long.html"
    text = (folder / "01_first.html").read_text("utf-8")
    path.write_text(text.replace("</article>", f'<div class="scroll" id="long">{table}</div></article>'), "utf-8")
    screen.goto(path.as_uri())
    screen.evaluate("() => { const box = document.querySelector('#long'); box.scrollTop = box.scrollHeight; }")
    box, head = (screen.locator(part).first.bounding_box() for part in ("#long", "#long th"))
    assert head["y"] == pytest.approx(box["y"], abs=2)
    assert box["height"] < 844


def test_numbers_and_their_heads_stand_on_the_right(screen, folder):
    screen.goto((folder / "01_first.html").as_uri())
    side = "cells => cells.map(cell => getComputedStyle(cell).textAlign)"
    for media in ("screen", "print"):
        screen.emulate_media(media=media)
        assert screen.eval_on_selector_all(".dataframe :is(th, td)", side) == 2 * (["left"] + ["right"] * 20)


def test_the_widest_table_fits_the_paper(page, folder, tmp_path):
    """That of all experiments in notebook 12, on A4 with margins of 1 cm."""
    scores = ["accuracy (%)", "precision", "recall", "F1", "weighted F1"]
    row = {"experiment": "B3-batchnorm-frozen", "model": "MobileNetV2, BatchNorm frozen"}
    row |= dict.fromkeys(scores, "69.7 [68.8, 70.6]") | {"loss": "0.91 [0.89, 0.94]", "parameters": "2,593,610"}
    row |= {"MFLOP": 306, "training (s)": 2575, "ms per image": 20.75, "images/s": 13642, "device": "AMD EPYC, 2 cores"}
    markup = site.FILTERS["aligned"](pd.DataFrame([row] * 5).to_html(index=False, border=0))
    path = tmp_path / "wide.html"
    text = (folder / "01_first.html").read_text("utf-8")
    path.write_text(text.replace("</article>", f'<div class="scroll" id="paper">{markup}</div></article>'), "utf-8")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})
    page.goto(path.as_uri())
    assert page.evaluate("document.querySelector('#paper').scrollWidth") <= 718


def test_contents_fold_on_a_phone(screen, folder):
    screen.goto((folder / "01_first.html").as_uri())
    assert screen.is_visible(".contents nav") == (screen.viewport_size["width"] > 1000)


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(browser, folder, name):
    page = browser.new_page()
    page.goto((folder / f"{name}.html").as_uri())
    links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    assert links
    for link in {link for link in links if link.startswith("file:") and "/lib/" not in link}:
        page.goto(link)
        section = urlsplit(link).fragment
        found = page.evaluate("ids => ids.some(id => document.getElementById(id))", [section, unquote(section)])
        assert not section or found, link
    page.close()


def test_dark_pages_are_dark_and_figures_stay_on_white(browser, folder):
    page = browser.new_page(color_scheme="dark")
    page.goto((folder / "01_first.html").as_uri())
    colour = "element => getComputedStyle(element).backgroundColor"
    assert page.eval_on_selector(".figure", colour) == "rgb(255, 255, 255)"
    red, green, blue = (int(part) for part in page.eval_on_selector("body", colour)[4:-1].split(","))
    assert max(red, green, blue) < 60
    page.close()


@pytest.fixture
def page(browser):
    """A page whose own keyboard does everything."""
    page = browser.new_page()
    yield page
    page.close()


def tab_to(page, selector):
    """Press Tab until the element has the focus."""
    for _ in range(200):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")


def column(page, number):
    """The texts of a column of the table of many rows, as far as it is shown."""
    cells = page.locator(f"#many tbody tr:visible td:nth-child({number})")
    return cells.all_inner_texts()


@pytest.fixture
def table(page, folder, tmp_path):
    """A notebook's page with a table of 16 rows: a name once for several rows, numbers, and blanks."""
    names, numbers = {0: "A1", 10: "B2"}, [3, 0, 1200, 20, 0, 100, 7, 8, 9, 10, 11, 950, 13, 14, 15, 16]
    rows = [(names.get(place, ""), f"{number:,} [1, 2]" if number else "", "own" if number > 900 else "x")
            for place, number in enumerate(numbers)]
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    head = "<thead><tr><th>name</th><th>number</th><th>kind</th></tr></thead>"
    markup = f'<div class="scroll" tabindex="0"><table id="many">{head}<tbody>{body}</tbody></table></div>'
    path = tmp_path / "many.html"
    path.write_text((folder / "01_first.html").read_text("utf-8").replace("</article>", markup + "</article>"), "utf-8")
    page.goto(path.as_uri())
    return page


def test_tables_sort_by_keyboard(table):
    assert table.get_attribute("#many th:nth-child(2)", "aria-sort") == "none"
    tab_to(table, "#many th:nth-child(2)")
    table.keyboard.press("Enter")
    assert table.get_attribute("#many th:nth-child(2)", "aria-sort") == "ascending"
    numbers = ["3", "7", "8", "9", "10", "11", "13", "14", "15", "16", "20", "100", "950", "1,200"]
    assert [text.split(" [")[0] for text in column(table, 2)] == [*numbers, "", ""]
    assert set(column(table, 1)[-4:-2]) == {"A1", "B2"} and "" not in column(table, 1)  # each row has its name now
    table.keyboard.press("Enter")
    assert table.get_attribute("#many th:nth-child(2)", "aria-sort") == "descending"
    assert [text.split(" [")[0] for text in column(table, 2)] == [*numbers[::-1], "", ""]
    tab_to(table, "#many th:nth-child(3)")
    table.keyboard.press("Enter")
    assert table.get_attribute("#many th:nth-child(2)", "aria-sort") == "none"


def test_tables_filter_by_keyboard_and_print_whole(table):
    tab_to(table, ".filter input")
    table.keyboard.type("b2 OWN")
    assert column(table, 2) == ["950 [1, 2]"] and table.inner_text(".filter output") == "1 of 16 rows"
    table.emulate_media(media="print")
    assert len(column(table, 2)) == 16
    table.emulate_media(media="screen")
    tab_to(table, ".filter input")  # on paper it has no focus
    table.keyboard.press("Escape")
    assert len(column(table, 2)) == 16


def test_sections_have_an_address_by_keyboard(page, folder):
    page.goto((folder / "01_first.html").as_uri())
    tab_to(page, "#Detail a")
    link = page.get_by_role("heading", name="Detail").get_by_role("link", name="Link to this section")
    assert link.evaluate("link => getComputedStyle(link).opacity") == "1"
    page.keyboard.press("Enter")
    assert page.url.endswith("01_first.html#Detail")


def test_small_tables_are_left_alone(page, folder):
    page.goto((folder / "01_first.html").as_uri())
    assert page.locator(".filter").count() == page.locator("th[aria-sort]").count() == 0


def test_points_show_their_images(screen, folder):
    screen.goto((folder / "01_first.html").as_uri())
    assert not screen.is_visible(".spot")
    chart = screen.locator(".hover img")
    chart.scroll_into_view_if_needed()
    left, top = screen.evaluate("JSON.parse(document.querySelector('.hover script').textContent).spots[0]")[:2]
    border = float(chart.evaluate("chart => getComputedStyle(chart).paddingLeft")[:-2])
    width, height = chart.evaluate("chart => [chart.clientWidth, chart.clientHeight]")
    x, y = (border + share / 100 * (size - 2 * border) for share, size in ((left, width), (top, height)))
    chart.hover(position={"x": x + 3, "y": y - 3})
    assert screen.inner_text(".spot.on") == "<b>cat"  # the text of a name, not markup
    chart.hover(position={"x": x + 30, "y": y})
    assert not screen.is_visible(".spot")


def test_points_by_keyboard(page, folder):
    page.goto((folder / "01_first.html").as_uri())
    tab_to(page, ".hover")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text(".spot.on") == "<b>cat"
    page.keyboard.press("ArrowLeft")  # there is nothing further to the left
    assert page.inner_text(".spot.on") == "<b>cat"
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".spot.on") == "dog</script>"
    page.keyboard.press("Escape")
    assert not page.is_visible(".spot")


def test_search_by_keyboard(page, folder):
    page.goto((folder / "index.html").as_uri())
    tab_to(page, "#search")
    page.keyboard.type("first detail")
    assert page.inner_text("#search-count") == "1 found"
    tab_to(page, "#search-results a")
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_first.html#Detail")


def test_compare_by_keyboard(page, folder):
    page.goto((folder / "compare.html").as_uri())
    summary = page.inner_text("#summary")
    assert summary.startswith("A2-own is right on 90.0 % [50.0, 100.0] of 360 test images, A2 on 75.0 %")
    assert page.locator("#counts-table tbody td").all_inner_texts() == ["270", "54", "0", "36"]
    assert "a probability of less than 0.0001 (McNemar" in page.inner_text("#chance")
    for pair in ((12, 4), (3, 0), (5, 5), (300, 240)):  # SciPy's word for it
        expected = stats.binomtest(pair[0], sum(pair)).pvalue
        assert page.evaluate("([first, second]) => mcnemar(first, second)", pair) == pytest.approx(expected, rel=1e-9)
    costs = page.locator("#costs-table tbody tr").all_inner_texts()
    assert costs[0].split() == ["parameters", "315,722", "315,722"] and "a record's device" in costs[-1]
    assert page.locator("#pictures li").count() == 48
    assert "Test image 36" in page.get_attribute("#pictures .picture", "aria-label")
    assert page.locator("svg[role=img]").count() == 2
    assert "in epoch 10" in page.get_attribute("svg[role=img]", "aria-label")
    note = "the label smoothing is 0.05 for A2-own and 0 for A2."
    assert page.inner_text("#charts figure:nth-child(2) p").endswith(note)
    tab_to(page, "#first")
    page.keyboard.press("ArrowDown")  # now both are A2
    page.wait_for_function("document.querySelector('#summary').textContent.startsWith('A2 is')")
    assert page.url.endswith("#A2,A2")
    assert page.locator("#counts-table tbody td").all_inner_texts() == ["270", "0", "0", "90"]
    assert "a probability of 1.0000 " in page.inner_text("#chance")
    assert page.locator("#charts p").count() == 0
    assert page.locator("#pictures li").count() == 0
    page.goto((folder / "compare.html").as_uri() + "#A2,A2-own")
    page.reload()
    assert page.locator("#counts-table tbody td").all_inner_texts() == ["270", "0", "54", "36"]
    tab_to(page, "#kind")
    page.keyboard.press("ArrowDown")
    assert page.locator("#pictures li").count() == 0  # only A2 right: never
    page.select_option("#kind", index=3)
    page.select_option("#second", index=0)
    page.select_option("#first", index=0)  # both are A2-own
    assert page.inner_text("#kind option:checked") == "both wrong, with different answers"
    assert page.inner_text("#shown").startswith("0 of 0")


def test_without_javascript_nothing_is_lost(browser, folder):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    assert page.locator(".card").count() == 3 and not page.is_visible(".search")
    page.goto((folder / "compare.html").as_uri())
    assert page.is_visible("noscript .note")
    context.close()
