"""The list of lines that mutations.py breaks: each is there, once, and so are the tests that should see it."""

from __future__ import annotations

from mutations import ROOT, read_mutations


def test_every_listed_line_is_in_its_file_once_and_has_its_tests():
    listed = read_mutations()
    counts = {(m.file, m.old): (ROOT / m.file).read_text(encoding="utf-8").count(m.old) for m in listed}
    assert len(listed) > 80 and {place: count for place, count in counts.items() if count != 1} == {}
    assert all((ROOT / guard).exists() for m in listed for guard in m.guards)
