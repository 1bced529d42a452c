"""Pages as tests read them."""

import html.parser

VOID = {"meta", "img"}


class Page(html.parser.HTMLParser):
    """The elements of a page, its text, and the cells of its tables row by row; fails on tags that do not pair up."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.open, self.words, self.rows = [], [], [], []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += words
        if "style" not in self.open:
            self.words.append(words)

    @property
    def text(self):
        return " ".join("".join(self.words).replace("\xa0", " ").split())

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]
