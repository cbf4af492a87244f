"""Pages in a real browser: figures render, tables sort, nothing comes from elsewhere."""

import json
import re

import pytest

from mmlab_inline.report import compare, read_runs
from mmlab_inline.report.page import Page, table

from .browser import start_browser


@pytest.fixture(scope='module')
def browser():
    browser = start_browser()
    yield browser
    browser.quit()


@pytest.fixture
def open_page(browser):
    """Opens a file, and checks that it asked for nothing else and has no errors."""

    def open_(path):
        for kind in ('browser', 'performance'):
            browser.get_log(kind)  # of what was open before
        browser.get(path.as_uri())
        messages = [json.loads(e['message'])['message'] for e in browser.get_log('performance')]
        asked = {
            message['params']['request']['url']
            for message in messages
            if message['method'] == 'Network.requestWillBeSent'
        }
        assert {url for url in asked if not url.startswith('data:')} == {path.as_uri()}
        assert browser.get_log('browser') == []
        return browser

    return open_


def assert_figures_render(browser, num_charts, num_pictures):
    sizes = browser.execute_script(
        """return [...document.querySelectorAll('figure.chart svg')].map(svg => [
            svg.getBoundingClientRect(), svg.getBBox()].flatMap(box => [box.width, box.height]))"""
    )
    assert len(sizes) == num_charts
    assert all(min(size) > 100 for size in sizes)
    widths = browser.execute_script('return [...document.images].map(i => i.naturalWidth)')
    assert len(widths) == num_pictures
    assert all(width >= 100 for width in widths)
    # Nothing hangs over the right edge of the window.
    assert browser.execute_script('return document.body.scrollWidth <= window.innerWidth')


@pytest.mark.parametrize('num_classes', [2, 150])
def test_report_of_label_maps(open_page, evaluate_label_maps, write_log, tmp_path, num_classes):
    log = dict(lr=0.1, loss=2.0, step=1), dict(mIoU=5.0, step=1)
    write_log('1', *log, work_dir=tmp_path / 'run')
    evaluate_label_maps(num_classes, num_pictures=1, size=(100, 120))
    browser = open_page(tmp_path / 'run/report.html')
    assert_figures_render(browser, num_charts=3, num_pictures=4)
    assert [heading.text for heading in browser.find_elements('tag name', 'h2')] == [
        'Metrics',
        'Cost',
        'IoU of the classes',
        'Precision and recall',
        'Confusion',
        'Worst images',
        'Best images',
        'Training',
        'Config',
    ]


@pytest.mark.parametrize(('num_classes', 'find'), [(1, True), (3, False), (30, True)])
def test_report_of_objects(open_page, evaluate_objects, tmp_path, num_classes, find):
    evaluate_objects(num_classes, find=find, num_pictures=2)
    browser = open_page(tmp_path / 'run/report.html')
    assert_figures_render(browser, num_charts=2 if find else 1, num_pictures=8)
    rows = browser.find_elements('css selector', 'section:nth-of-type(3) tbody tr')
    assert len(rows) == num_classes


def test_a_click_sorts(open_page, tmp_path):
    rows = [('b', 10, 0.5), ('c', 9, float('nan')), ('a', 100, -0.25)]
    page = Page('rows')
    page.add('table', table(['name', 'count', 'share'], rows, bars=['share']))
    (tmp_path / 'page.html').write_text(page.html())
    browser = open_page(tmp_path / 'page.html')

    def click(heading):
        button = browser.find_element('xpath', f'//button[text()="{heading}"]')
        button.click()
        cells = browser.find_elements('css selector', 'tbody td:first-child')
        sorts = button.find_element('xpath', '..').get_attribute('aria-sort')
        return ''.join(cell.text for cell in cells), sorts

    assert click('count') == ('abc', 'descending')  # as numbers: 100, 10, 9
    assert click('count') == ('cba', 'ascending')
    assert click('share') == ('bac', 'descending')  # what has no value stays last
    assert click('share') == ('abc', 'ascending')
    assert click('name') == ('abc', 'ascending')
    assert click('name') == ('cba', 'descending')
    marked = browser.find_elements('css selector', '[aria-sort]')
    assert [heading.text.split()[0] for heading in marked] == ['name']


def test_columns_without_a_value_are_left_out():
    rows = [('a', 1, None, ''), ('b', None, float('nan'), '')]
    html = table(['name', 'count', 'memory', 'failed'], rows, bars=['memory', 'count'])
    assert re.findall('<button>(.*?)</button>', html) == ['name', 'count']
    assert html.count('<td') == 4
    assert html.count('class="bar"') == 1
    assert '<button>memory</button>' in table(['name', 'memory'], [])


def test_runs_side_by_side(open_page, evaluate_label_maps, write_log, tmp_path):
    runs = [tmp_path / name for name in ('first', 'second', 'training')]
    for number, work_dir in enumerate(runs):
        entries = [dict(lr=0.1, loss=2.0 + number, step=step) for step in (1, 2)]
        write_log('1', *entries, dict(mIoU=70.0, step=2), work_dir=work_dir)
        if number < 2:
            evaluate_label_maps(2 + number)
            (tmp_path / 'run/report.json').rename(work_dir / 'report.json')
    (tmp_path / 'compare.html').write_text(compare(read_runs(runs)))
    browser = open_page(tmp_path / 'compare.html')
    assert_figures_render(browser, num_charts=2, num_pictures=0)
    table = browser.find_elements('css selector', 'section:nth-of-type(1) tbody tr')
    assert [row.text.split()[0] for row in table] == ['first', 'second', 'training']
    assert '70' in table[2].text
    classes = browser.find_elements('css selector', 'section:nth-of-type(5) tbody tr')
    assert [row.text.count('–') for row in classes] == [0, 0, 1]
