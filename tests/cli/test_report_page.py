"""The page of a report (src/verify/page/) in headless Chromium, as a reader uses it: by sight, by
keyboard, in dark mode, on a telephone, without scripts. Needs Debian's chromium, chromium-driver and
python3-selenium; is skipped where one is missing."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys

if not importlib.util.find_spec("selenium") and not os.environ.get("PLUMB_SYSTEM_PYTHON"):
    # Debian's modules belong to Debian's Python, which need not be the one that runs the tests.
    if os.path.exists("/usr/bin/python3"):
        os.environ["PLUMB_SYSTEM_PYTHON"] = "1"
        os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv])

from harness import *

_browser = None


def start_browser():
    missing = [p for p in ("chromium", "chromedriver") if not shutil.which(p)]
    missing += [] if importlib.util.find_spec("selenium") else ["python3-selenium"]
    if missing:
        skip(f"no browser to test the page in: {', '.join(missing)} is missing")
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    options = Options()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "disable-gpu", "disable-dev-shm-usage", "window-size=1400,1000",
                 "host-resolver-rules=MAP * ~NOTFOUND", "disable-background-networking"):
        options.add_argument("--" + flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to sandbox for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        browser = webdriver.Chrome(service=Service(shutil.which("chromedriver")), options=options)
    except WebDriverException as e:
        skip("Chromium does not start here: " + str(e.msg).splitlines()[0])
    browser.set_page_load_timeout(60)
    return browser


def pages():
    """The folder of sample pages that tests/unit/test_report.c writes."""
    folder = tmp("pages")
    if not os.path.exists(folder):
        os.mkdir(folder)
        program = os.path.join(os.path.dirname(PLUMB), "tests", "test_report")
        p = subprocess.run([program, "--pages", folder], capture_output=True, text=True, cwd=ROOT)
        if p.returncode == 4 and "jansson" in p.stderr:
            skip("this build has no JSON (libjansson-dev)")
        assert p.returncode == 0, p.stderr
    return folder


def open_page(name, width=1400, dark=False, script=True, medium=""):
    global _browser
    folder = pages()
    if not _browser:
        _browser = start_browser()
    b = _browser
    for log in ("browser", "performance"):
        b.get_log(log)
    b.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                      {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    b.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium, "features": [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
    b.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
    b.get(f"file://{folder}/{name}.html")
    return b


def css(selector):
    return _browser.find_elements("css selector", selector)


def one(selector):
    found = css(selector)
    assert len(found) == 1, f"{len(found)} elements are {selector}"
    return found[0]


def press(*keys):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys
    for key in keys:
        ActionChains(_browser).send_keys(getattr(Keys, key)).perform()


def focused(what="aria-label"):
    return _browser.switch_to.active_element.get_attribute(what) or ""


def quiet():
    """Nothing on the console, nothing asked of any network."""
    equal([l["message"] for l in _browser.get_log("browser")], [])
    asked = [json.loads(l["message"])["message"] for l in _browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert urls and all(u.startswith(("file://", "data:")) for u in urls), urls


SENTENCE = ["first fault: prompt: the ids end in EOS (2)",
            "also: prompt: newlines became spaces: id 29871 at 6 where <0x0A> (13) belongs",
            "first divergence: blk.0.q (token 3): NMSE 2.07, bound 1e-10; weights read transposed "
            "(3.04e-13 if so)"]


@test("the verdict and the sentence are text")
def _():
    b = open_page("case")
    equal(one("h1").text, "FAIL")
    equal([p.text for p in css(".sentence p")], SENTENCE)
    equal(b.title, "FAIL: prompt - plumb verify")
    equal([s.text.split("\n")[0].split()[0] for s in css(".stages li")],
          ["file", "prompt", "components", "paths"])
    quiet()


@test("a failing cell is found by its label; a click shows the cause")
def _():
    open_page("case")
    assert "weights read transposed" in one("#panel").text  # the first divergence, unasked
    cell = one('button[aria-label="blk.1.ffn_act: ratio 5e4, fail"]')
    cell.click()
    panel = one("#panel").text
    for part in ("blk.1.ffn_act", "GELU instead of SiLU", "every row and head", "0.0123", "2.46e-7",
                 "token 3", "plumb verify -m models/demo.gguf --against other.gguf",
                 "--components ffn_act"):
        assert part in panel, f"no {part!r} in: {panel}"
    equal(cell.get_attribute("aria-pressed"), "true")
    equal(len(css('.cell[aria-pressed="true"]')), 1)
    one('button[aria-label="blk.0.attn_norm: ratio 0.002, pass"]').click()
    assert "blk.0.attn_norm" in one("#panel").text and "Cause" not in one("#panel").text
    quiet()


@test("Tab reaches the first failing cell, Enter shows it, Escape leads back, arrows go on")
def _():
    open_page("case")
    for _ in range(20):
        press("TAB")
        if focused("class").startswith("cell"):
            break
    equal(focused(), "blk.0.q: ratio 2.1e10, fail")
    press("ARROW_LEFT")
    equal(focused(), "blk.0.attn_norm: ratio 0.002, pass")
    press("ENTER")
    equal(_browser.switch_to.active_element.text, "blk.0.attn_norm")
    press("ESCAPE")
    equal(focused(), "blk.0.attn_norm: ratio 0.002, pass")
    press("END")
    equal(focused("data-name"), "blk.0.l_out")
    press("ARROW_DOWN", "HOME", "ARROW_RIGHT", "SPACE")
    equal(_browser.switch_to.active_element.text, "blk.1.q")
    press("ESCAPE", "TAB")
    equal(focused(), "blk.1.k: ratio 2.1e10, fail")  # the next failing one


@test("cells stand in tables with headers, as buttons with names")
def _():
    open_page("case")
    for cell in css("button.cell")[:8]:
        equal(cell.aria_role, "button")
        equal(cell.accessible_name, cell.get_attribute("aria-label"))
    row = one('button[data-name="blk.1.k"]').find_element("xpath", "ancestor::tr")
    equal(row.find_element("css selector", 'th[scope="row"]').text, "1")
    equal(len(css('#tables th[scope="col"]')), 1 + 15 + 2)
    equal([h.get_attribute("textContent") for h in css("#tables caption")],
          ["Input", "Layers, from the first down", "Output"])
    ids = _browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    equal(len(ids), len(set(ids)))
    for e in css("[aria-labelledby]"):
        assert e.get_attribute("aria-labelledby") in ids


CONTRAST = """
const rgb = s => s.match(/[\\d.]+/g).map(Number);
const light = c => rgb(c).slice(0, 3).map(v => v / 255)
  .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const under = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
                                                     if (!(rgb(c)[3] === 0)) return c; } return "rgb(255,255,255)"; };
const box = document.getElementById("tables");
for (const c of ["p0", "p1", "p2", "p3", "p4", "p5", "f0", "f1", "f2", "f3", "f4", "f5"]) {
  const e = document.createElement("button");
  e.className = "cell " + c; e.textContent = c; box.append(e);
}
const poor = [];
for (const e of document.querySelectorAll(".cell, .tag, p, dt, dd, th, td, h1, h2, h3, h4, code, summary")) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  const a = light(getComputedStyle(e).color), b = light(under(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) poor.push(`${e.tagName}.${e.className}: ${ratio.toFixed(2)}`);
}
return [...new Set(poor)];
"""


@test("dark mode is dark, and both are legible")
def _():
    shades = []
    for dark in (False, True):
        b = open_page("case", dark=dark)
        shades.append(b.execute_script(
            "return [document.body, document.querySelector('.f5')]"
            ".map(e => getComputedStyle(e).backgroundColor).join()"))
        equal(b.execute_script(CONTRAST), [])
    assert shades[0] != shades[1], shades
    quiet()


@test("color is not all that tells a failing cell")
def _():
    open_page("case")
    assert all(c.text.startswith("\u2715") for c in css(".cell.fail"))
    assert not any("\u2715" in c.text for c in css(".cell.pass"))


@test("usable 400 pixels wide")
def _():
    b = open_page("case", width=400)
    wide = b.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 400, f"the page is {wide} wide"
    cell = one('button[data-name="blk.0.l_out"]')  # scrolled to, within the map
    b.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", cell)
    cell.click()
    top = b.execute_script("return document.querySelector('#panel h3').getBoundingClientRect().top")
    assert 0 <= top < 900, top
    quiet()


@test("without scripts: verdict, sentence and tables")
def _():
    open_page("case", script=False)
    equal(one("h1").text, "FAIL")
    equal([p.text for p in css(".sentence p")], SENTENCE)
    assert not one("#map-body").is_displayed()
    assert one("#no-script").is_displayed()
    rows = [r.text.split() for r in css(".summary tbody tr")]
    q = next(r for r in rows if r[0] == "q")
    assert "2.1e10" in q and "weights read transposed" in one(".failures").text
    assert len(css(".bounds tbody tr")) > 8


@test("texts of a hostile report stay texts")
def _():
    b = open_page("hostile")
    equal(len(css("script")), 2)
    equal(len(css("b, img, iframe, object")), 0)
    assert "</script><script>alert(1)</script><b>&amp;\\x1b[31m\\xff" in css(".sentence p")[0].text
    assert "{{data}}" in one(".facts").text
    for cell in css(".cell"):
        cell.click()
        assert "alert(1)" in one("#panel").text
    b.execute_script("const s = document.getElementById('prompt'); s.selectedIndex = 1;"
                     "s.dispatchEvent(new Event('change'))")
    equal(len(css(".cell")), 1)
    quiet()


@test("the policy forbids other scripts, styles and requests")
def _():
    b = open_page("pass")
    done = b.execute_async_script("""
const done = arguments[arguments.length - 1], seen = [];
document.addEventListener("securitypolicyviolation", e => {
  seen.push(e.effectiveDirective);
  if (seen.length === 3) setTimeout(() => done([seen.sort(), window.ran || null]), 100);
});
const s = document.createElement("script");
s.textContent = "window.ran = 1";
document.body.append(s);
const i = new Image();
i.src = "http://127.0.0.1:9/x.png";
const l = document.createElement("style");
l.textContent = "body { color: red }";
document.head.append(l);
""")
    equal(done, [["img-src", "script-src-elem", "style-src-elem"], None])


@test("a right run has a verdict, and a cell for each component")
def _():
    b = open_page("pass")
    equal(b.title, "pass - plumb verify")
    equal(one("h1").text, "PASS")
    equal(len(css(".cell")), 6)
    equal(len(css(".cell.fail, .failures")), 0)
    assert "blk.0.l_out" in one("#panel").text
    equal([o.text for o in css("#prompt option")], ["the worst of all", "bos", "chat"])
    quiet()


@test("80 layers, 25 components and 5 prompts stay quick")
def _():
    b = open_page("big")
    ready = b.execute_script("const t = performance.getEntriesByType('navigation')[0];"
                             "return t.domComplete - t.startTime")
    assert ready < 10000, f"{ready:.0f} ms until it is drawn"
    equal(len(css(".cell")), 80 * 21 + 4)
    equal([c.get_attribute("data-name") for c in css(".cell.fail")], ["blk.41.ffn_out"])
    took = b.execute_script("""
const before = performance.now(), s = document.getElementById("prompt");
s.value = "chat";
s.dispatchEvent(new Event("change"));
document.body.getBoundingClientRect();
return performance.now() - before;""")
    assert took < 5000, f"{took:.0f} ms for another prompt"
    equal(len(css(".cell.fail")), 0)
    b.execute_script("arguments[0].click()", one('button[data-name="blk.79.q"]'))
    equal(len(css(".mini tbody tr")), 20)
    equal(len(css(".mini tbody td")), 20 * 64)
    equal(len(css("#panel .prompts-list button")), 5)
    # Another prompt of the same component: 64 of its tokens, the first one and every fifth.
    b.execute_script("arguments[0].click()", css("#panel .prompts-list button")[4])
    equal([t.text for t in css(".mini tbody th")[:3]], ["0", "5", "10"])
    quiet()


@test("prints")
def _():
    b = open_page("case")
    pdf = b.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert len(pdf) > 20000
    quiet()


try:
    run_tests()
finally:
    if _browser:
        _browser.quit()
