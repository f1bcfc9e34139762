"""A page as a reader of its structure sees it."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """Tags, addresses, ids and text of a page; checks the nesting."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.text = [], [], [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for name, value in attributes if name == "id"]
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))
