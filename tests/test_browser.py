"""The comparison page in a browser: no errors, filters that filter, nothing wider than the window."""

import shutil

import numpy as np
import pytest

import sfocus_tf as sf
from sfocus_tf import evaluation, report
from tests.conftest import first_images, tiny_classifier

webdriver = pytest.importorskip("selenium.webdriver")
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def browser():
    if not (DRIVER and BROWSER):
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(tmp_path):
    data = first_images(sf.data.load("scenes", "validation", image_size=16, regions=True), 48, 48)
    a, b = (evaluation.evaluate(sf.SharpenFocus(tiny_classifier(16, 16)), data) for _ in range(2))
    images = np.concatenate([batch["image"] for batch in data.batches.as_numpy_iterator()])
    path = tmp_path / "page.html"
    path.write_text(report.comparison_page(a, b, lambda numbers: images, ("cross-entropy", "ICASC"), "scenes"))
    return f"file://{path}"


def shown(browser) -> int:
    return browser.execute_script("return cards.filter(card => card.offsetParent !== null).length")


@pytest.mark.parametrize("width", [1280, 360])
def test_page_works_on_wide_and_narrow_windows(browser, page, width):
    view = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", view)
    browser.get(page)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0 and browser.execute_script("return document.images.length") > 0

    loaded = browser.execute_async_script("""
        const done = arguments[0];
        Promise.all(cards.map(card => new Promise(resolve => {
          const image = new Image();
          image.onload = () => resolve(image.naturalWidth > 0);
          image.onerror = () => resolve(false);
          image.src = card.style.getPropertyValue("--p").slice(4, -1).replaceAll('"', "");
        }))).then(done)""")
    assert loaded and all(loaded)

    every = shown(browser)
    assert every > 1
    browser.find_element("css selector", "button[data-pair]").click()
    pair = browser.execute_script("return pair.value")
    few = shown(browser)
    assert pair and 0 < few < every
    assert browser.execute_script(
        "return cards.every(c => (c.offsetParent !== null) === c.dataset.keys.split(' ').includes(arguments[0]))", pair
    )
    assert browser.find_element("id", "count").text == f"{few} of {every} shown"
    browser.execute_script("pair.value = ''; pair.dispatchEvent(new Event('change'))")
    assert shown(browser) == every

    visible = "return [...document.querySelectorAll('img.inner')].filter(i => i.offsetParent !== null).length"
    assert browser.execute_script(visible) == 0
    browser.execute_script("layer.value = 'inner'; layer.dispatchEvent(new Event('change'))")
    assert browser.execute_script(visible) > 0
