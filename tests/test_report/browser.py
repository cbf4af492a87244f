"""A page in a real browser."""

import shutil

import pytest


def find_browser():
    """Paths of Chromium and of what drives it, or why there is none."""
    browser = shutil.which('chromium') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    return (browser, driver) if browser and driver else None


def start_browser(size=(1280, 1000)):
    """Start a headless browser that logs what it asks for; skips the test where there is none."""
    webdriver = pytest.importorskip('selenium.webdriver')
    found = find_browser()
    if found is None:
        pytest.skip('no Chromium with chromedriver: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for argument in (
        '--headless=new',
        '--no-sandbox',
        '--disable-gpu',
        '--disable-dev-shm-usage',
        '--disable-background-networking',
        '--no-first-run',
    ):
        options.add_argument(argument)
    options.add_argument(f'--window-size={size[0]},{size[1]}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    service = webdriver.ChromeService(executable_path=found[1])
    return webdriver.Chrome(options=options, service=service)
