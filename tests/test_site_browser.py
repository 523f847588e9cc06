"""The site in headless Chromium: no errors, no network, no sideways scrolling, no dead links, accessible."""

import shutil
from urllib.parse import unquote, urlsplit

from lib import project

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from test_site import build

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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


@pytest.mark.parametrize("name", ["index", "01_first", "03_third"])
def test_page(screen, folder, name):
    complaints = []
    screen.on("console", lambda message: complaints.append(message.text))
    screen.on("pageerror", lambda error: complaints.append(str(error)))
    screen.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    screen.goto((folder / f"{name}.html").as_uri())
    if name != "index":
        screen.click("#all-code")  # what is folded must be sound, too
        screen.click(".about summary")
        assert screen.evaluate("[...document.querySelectorAll('details.code')].every(code => code.open)")
    assert complaints == []
    assert screen.evaluate("document.documentElement.scrollWidth") <= screen.viewport_size["width"]
    assert screen.evaluate("[...document.images].every(image => image.alt && image.naturalWidth)")
    violations = Axe().run(screen).response["violations"]
    assert [violation["help"] for violation in violations if violation["impact"] in ("serious", "critical")] == []


def test_contents_fold_on_a_phone(screen, folder):
    screen.goto((folder / "01_first.html").as_uri())
    assert screen.is_visible(".contents nav") == (screen.viewport_size["width"] > 1000)


@pytest.mark.parametrize("name", ["index", "01_first", "03_third"])
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
