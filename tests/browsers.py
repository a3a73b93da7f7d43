"""A browser without a window, for tests that open a page; skipped where none is installed."""

import contextlib
import json
import shutil

import numpy as np
import pytest


class Browser:
  """A window on one page at a time, and what was said and asked for meanwhile."""

  def __init__(self, driver):
    self.driver = driver

  def open(self, address, *, width=1000, media=""):
    command = self.driver.execute_cdp_cmd
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    command("Emulation.setDeviceMetricsOverride", size)
    command("Emulation.setEmulatedMedia", {"media": media})
    self.driver.get("about:blank")
    self.errors(), self.requests()
    self.driver.get(address)

  def ask(self, script, *arguments):
    return self.driver.execute_script(f"return {script}", *arguments)

  def until(self, script, *arguments):
    """Waits for something true, and returns it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(self.driver, 20, 0.02).until(lambda _: self.ask(script, *arguments))

  def errors(self):
    return [entry["message"] for entry in self.driver.get_log("browser")]

  def requests(self):
    """Addresses asked for, without those that the page's own policy stopped."""
    entries = [
      json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
    ]
    urls = {}
    for method, params in ((entry["method"], entry["params"]) for entry in entries):
      if method == "Network.requestWillBeSent":
        urls[params["requestId"]] = params["request"]["url"]
      elif method == "Network.loadingFailed" and params.get("blockedReason") == "csp":
        urls.pop(params["requestId"], None)
    return list(urls.values())

  def choose(self, name, value):
    """Picks an option as a reader does."""
    script = "{ const [box, value] = arguments; box.value = value;"
    script += " box.dispatchEvent(new Event('change', {bubbles: true})); }"
    self.driver.execute_script(script, self.find(f"#{name}"), value)

  def find(self, selector):
    return self.driver.find_element("css selector", selector)

  def press(self, *keys):
    from selenium.webdriver.common.keys import Keys

    self.driver.switch_to.active_element.send_keys(*(getattr(Keys, key) for key in keys))

  def listed(self):
    """The numbers of the tiles in the strip, in order."""
    return self.ask("[...document.querySelectorAll('#strip > div')].map(e => +e.id.slice(6))")

  def texts(self, selector):
    return self.ask("[...document.querySelectorAll(arguments[0])].map(e => e.innerText)", selector)

  def red(self, selector):
    """The red of every picture found, once all are painted: (pictures, pixels)."""
    script = """(() => {
      const canvases = [...document.querySelectorAll(arguments[0])];
      const bytes = canvases.map((canvas) => {
        const context = canvas.getContext("2d");
        return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
      });
      const painted = bytes.every((one) => one.every((value, at) => at % 4 < 3 || value === 255));
      return painted && bytes.map((one) => one.filter((_, at) => at % 4 === 0));
    })()"""
    return np.array(self.until(script, selector))


@contextlib.contextmanager
def opened(user_dir):
  """A browser that keeps what it must in `user_dir`, an empty folder."""
  reason = "pages in a browser: install chromium and chromedriver, and the extra `test`"
  webdriver = pytest.importorskip("selenium.webdriver", reason=reason)
  from selenium.common.exceptions import WebDriverException

  programs = [shutil.which(name) for name in ("chromium", "google-chrome")]
  driver_program = shutil.which("chromedriver")
  if not any(programs) or not driver_program:
    pytest.skip(reason)
  options = webdriver.ChromeOptions()
  options.binary_location = next(filter(None, programs))
  for flag in (
    *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    f"user-data-dir={user_dir}",
  ):
    options.add_argument(f"--{flag}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
  # The driver is named, else one would be looked for in the network.
  service = webdriver.ChromeService(driver_program)
  try:
    driver = webdriver.Chrome(options=options, service=service)
  except WebDriverException as error:
    pytest.skip(f"{options.binary_location} does not start here: {error.msg.splitlines()[0]}")
  with driver:
    yield Browser(driver)
