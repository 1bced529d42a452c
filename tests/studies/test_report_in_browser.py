"""Reports in Chromium: no error, no request, nothing wider than the screen, legible, and usable by keyboard alone."""

import copy
import json
import math
import shutil

import pytest
from study_cases import only_vectors, run

from eigenspan.studies import plots
from eigenspan.studies.report import write_report
from eigenspan.studies.run_comparison import write_comparison

webdriver = pytest.importorskip("selenium.webdriver", reason='needs selenium: pip install -e ".[test]"')
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(DRIVER is None, reason="needs chromedriver: apt-get install chromium-driver"),
]

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
WIDTHS = (390, 1440)
SCHEMES = ("light", "dark")
TAB = "\ue004"

# The lowest contrast of any text with what is painted behind it, by the formula of WCAG 2; every element here has an
# opaque background or none.
CONTRAST = """
const channels = color => color.match(/[\\d.]+/g).map(Number);
const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const behind = element => {
  for (; element; element = element.parentElement) {
    const [r, g, b, a = 1] = channels(getComputedStyle(element).backgroundColor);
    if (a === 1) return [r, g, b];
    if (a !== 0) throw new Error("half transparent");
  }
  throw new Error("no background");
};
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || element.closest("style")) continue;
  const text = channels(getComputedStyle(element).color);
  if (text.length > 3) throw new Error("transparent text");
  const [light, dark] = [luminance(text), luminance(behind(element))].sort((a, b) => b - a);
  found.push([(light + 0.05) / (dark + 0.05), element.tagName]);
}
return found;
"""
FOCUSED = """
const element = document.activeElement, style = getComputedStyle(element), box = element.getBoundingClientRect();
return {
  element, tag: element.tagName, className: element.className, href: element.getAttribute("href"),
  outline: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
  visible: box.right > 0 && box.left < innerWidth && box.width > 0 && box.bottom > 0 && box.top < innerHeight,
};
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report, one of both splits with comparisons, and a comparison of runs, by name."""
    folder = tmp_path_factory.mktemp("studies")
    write_report(run(folder / "single", compare=False, steps=0), folder / "single")
    both = {"split": "both", "exact": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "write_figure", only_vectors)
        write_report(run(folder / "both", **both), folder / "both")
    run(folder / "seed", seed=1, **both)
    write_comparison([folder / "both", folder / "seed"], folder / "comparison.html")
    return {
        "single": folder / "single" / "report.html",
        "both": folder / "both" / "report.html",
        "comparison": folder / "comparison.html",
    }


@pytest.fixture
def quickly(monkeypatch):
    """Pages with figures that are drawn, not arranged."""
    monkeypatch.setattr(plots, "write_figure", only_vectors)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def show(browser, path, width, scheme="light"):
    """Opens a file from disk on a screen of that width, with all logs empty before."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    screen = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    # The load of the blank page may be taken for that of this one, which is then read in part.
    whole = "return location.href === arguments[0] && document.readyState === 'complete'"
    WebDriverWait(browser, 60).until(lambda browser: browser.execute_script(whole, path.as_uri()))


def requested(browser):
    """The addresses that were asked for since the page was opened."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
@pytest.mark.parametrize("name", ["single", "both", "comparison"])
def test_it_shows_whole_without_errors_or_requests(browser, pages, name, width, scheme):
    show(browser, pages[name], width, scheme)
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    drawn = browser.execute_script("return [...document.images].map(image => image.complete && image.naturalWidth > 0)")
    assert len(drawn) > 3
    assert all(drawn)
    assert browser.get_log("browser") == []
    own, *others = requested(browser)
    assert own == pages[name].as_uri()
    assert all(address.startswith("data:") for address in others)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["both", "comparison"])
def test_text_stands_out(browser, pages, name, scheme):
    show(browser, pages[name], 1440, scheme)
    found = browser.execute_script(CONTRAST)
    assert len(found) > 100
    assert min(found)[0] >= 4.5  # level AA of WCAG 2


def test_the_note_on_made_up_data_stands_out(browser, pages, tmp_path, quickly):
    results = json.loads((pages["single"].parent / "results.json").read_text())
    path = write_report({**results, "warning": "noise, not data"}, tmp_path)
    for scheme in SCHEMES:
        show(browser, path, 390, scheme)
        assert min(browser.execute_script(CONTRAST))[0] >= 4.5


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["both", "comparison"])
def test_it_is_read_by_keyboard(browser, pages, name, width):
    show(browser, pages[name], width)
    reached = [{"element": browser.switch_to.active_element}]
    for _ in range(200):
        reached[-1]["element"].send_keys(TAB)
        reached.append(browser.execute_script(FOCUSED))
        if reached[-1]["tag"] == "BODY":  # beyond the last
            break
    _, *reached, _ = reached
    assert (reached[0]["className"], reached[0]["href"]) == ("skip", "#main")
    assert all(one["outline"] and one["visible"] for one in reached)
    contents = browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    assert [one["href"] for one in reached[1 : len(contents) + 1]] == contents
    boxes = browser.execute_script("return document.querySelectorAll('.wide').length")
    assert sum(one["className"].startswith("wide") for one in reached) == boxes > 4


def test_a_table_scrolls_by_keyboard_and_a_link_leads_to_its_section(browser, pages):
    show(browser, pages["both"], 390)
    box = browser.find_element("css selector", ".wide:has(table)")
    position = "return [arguments[0].scrollLeft, arguments[0].scrollWidth > arguments[0].clientWidth]"
    assert browser.execute_script(position, box) == [0, True]
    box.send_keys("\ue014" * 3)  # the right arrow
    WebDriverWait(browser, 10).until(lambda _: browser.execute_script(position, box)[0] > 0)
    link = browser.find_element("css selector", "nav a[href='#certificates']")
    link.send_keys("\ue007")
    top = "return document.querySelector('#certificates').getBoundingClientRect().top"
    WebDriverWait(browser, 10).until(lambda _: abs(browser.execute_script(top)) < 844)


def test_a_page_of_a_thousand_eigenpairs_is_small_and_shows(browser, pages, tmp_path, quickly):
    """Of three steps, both splits, and the 62 tensors of a ResNet."""
    path = write_report(of_many(json.loads((pages["both"].parent / "results.json").read_text())), tmp_path)
    assert path.stat().st_size < 5e6
    show(browser, path, 390)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []


def of_many(results, k=1000, tensors=62):
    """The results with k pairs in the place of six and so many tensors in the place of four."""
    many = copy.deepcopy(results)
    many["table_k"] = [10, 100, k]
    names = [f"layer{index // 6}.{index % 6}.convolution.weight" for index in range(tensors)]
    many["parameters"] = {"names": names, "sizes": [1000 * (index + 1) for index in range(tensors)]}

    def curve(values, wave=0.01):
        known = [value for value in values if value is not None] or [0.1]
        return [known[0] / (1 + i / 50) * (1 + wave * math.sin(i * i)) for i in range(k)]

    for record in many["records"]:
        record["k_max"] = k
        for name in ("overlap", "eigenvalues", "residual_norms", "participation_ratio"):
            record[name] = curve(record[name], 0.3)
        for name in ("chance_uniform", "chance_stratified", "overlap_error"):
            record[name] = {part: curve(values) for part, values in record[name].items()}
        for name in ("radii", "sharp_radii", "sines", "overlaps"):
            record["certificate"][name] = curve(record["certificate"][name])
        record["certificate"]["leads"] = [True] * k
        record["exact"] = {name: curve(values) for name, values in record["exact"].items()}
        record["comparison"] = {name: curve(values)[:200] for name, values in record["comparison"].items()}
        record["mask_counts"] = list(range(tensors))
        record["layer_energy"] = {"eigenvectors": [[0.01] * 10] * tensors, "eigenspaces": [[0.01] * 3] * tensors}
    for tracking in many["tracking"].values():
        tracked = list(tracking["by_k"].values())[-1]
        layer = next(iter(tracked["layers"].values()))
        tracking["by_k"] = {str(k): {**tracked, "layers": dict.fromkeys(names, layer)}}
        tracking["gradient_shares"] = [curve(values) for values in tracking["gradient_shares"]]
    return many
