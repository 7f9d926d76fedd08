"""Tables as text and as HTML."""

from coterie.table import ShownInTables, TextTable

TABLE = TextTable(("name", "value"), (("a", "1"), ("<b>", "200")), "<>")


class Shown(ShownInTables):
    def tables(self) -> list[TextTable | str]:
        return [TABLE, "", "1 < 2"]


def test_columns_are_aligned() -> None:
    assert TABLE.lines() == ["name  value", "a         1", "<b>     200"]
    assert TextTable(("", ""), (("a", "b"), ("cc", "d"))).lines() == ["a   b", "cc  d"]
    assert TextTable(("", ""), ()).lines() == []


def test_print_shows_text_and_a_notebook_shows_html() -> None:
    assert str(Shown()) == "name  value\na         1\n<b>     200\n\n1 < 2"
    page = Shown()._repr_html_()
    assert page.count("<th") == 2
    assert page.count("<td") == 4
    assert "&lt;b&gt;" in page
    assert "<div>1 &lt; 2</div>" in page
