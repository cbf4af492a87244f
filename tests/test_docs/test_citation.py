"""CITATION.cff and the README name the same paper."""

import re

import yaml

from .blocks import ROOT


def test_citation_is_that_of_the_readme():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= citation.keys()
    paper = citation['preferred-citation']
    bibtex = dict(re.findall(r'^  (\w+)={(.*)}', (ROOT / 'README.md').read_text(), re.MULTILINE))
    assert paper['title'] == bibtex['title']
    authors = [f'{a["family-names"]}, {a["given-names"]}' for a in paper['authors']]
    assert ' and '.join(authors) == bibtex['author']
    assert str(paper['year']) == bibtex['year']
