"""Errors in files of presets and constitutions begin with the file's name and the line, where it can be told."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from rlhfbench.cli import main
from rlhfbench.file_places import line_in_json, line_in_toml

TABLES = """a = 1
"b" = 2 # [c]
[c] # first
a = 3

[[d]]
text = "x"
[[d]]
e.f = 4
[d.g]
h = 5
["i-0.1".j]
a = 6
"""


@pytest.mark.parametrize(
    ("table", "key", "nth", "line"),
    [
        ("", "a", 1, 1),
        ("", "b", 1, 2),
        ("", "text", 1, None),
        ("c", "a", 1, 4),
        ("c", "z", 1, 3),
        ("d", "text", 1, 7),
        ("d", "text", 2, 8),
        ("d", "e", 2, 9),
        ("d", "g", 2, 10),
        ("d", "text", 3, None),
        ("i-0.1.j", "a", 1, 13),
        ("i-0.1", "source", 1, 12),
        ("k", "a", 1, None),
    ],
)
def test_lines_of_toml(table: str, key: str, nth: int, line: int | None) -> None:
    assert line_in_toml(TABLES, table, key, nth) == line


BLOCKS = """name = "a" # don't \"\"\" [rules]
about = \"\"\"
[[rules]]
kind = "avoid" \\\"\"\"
[[rules]]\"\"\"
other = '''
[[rules]]
kind = \"\"\"
'''
[[rules]] # it's one
words = ["'''", '\"\"\"']
kind = "use"
[[rules]]
kind = \"\"\"
use\"\"\"
"""


@pytest.mark.parametrize(
    ("table", "key", "nth", "line"),
    [("rules", "kind", 1, 12), ("rules", "words", 1, 11), ("rules", "kind", 2, 14), ("", "other", 1, 6)],
)
def test_what_stands_in_strings_of_several_lines_is_no_line_of_toml(
    table: str, key: str, nth: int, line: int
) -> None:
    assert len(tomllib.loads(BLOCKS)["rules"]) == 2
    assert line_in_toml(BLOCKS, table, key, nth) == line


ITEMS = '{"name": 1,\n "rules": [\n  {"name": "[{",\n   "b": 2}, {"name": 3,\n "b": {"c": 4}}]}'


@pytest.mark.parametrize(
    ("key", "nth", "line"),
    [("name", 0, 1), ("z", 0, None), ("name", 1, 3), ("b", 1, 4), ("name", 2, 4), ("b", 2, 5), ("z", 2, 4)],
)
def test_lines_of_json(key: str, nth: int, line: int | None) -> None:
    assert line_in_json(ITEMS, "rules", key, nth) == line
    assert line_in_json("{}", "rules", key, 1) is None
    assert line_in_json('{"rules": [], "rules": [{"name": 3}]}', "rules", key, 1) is None


PRESET = '[mine]\nsource = "me"\nnote = "n"\n[mine.fields]\n'
RULES = """name = "mine"
[[rules]]
name = "a"
principle = "-"
weight = 1
kind = "avoid"
words = ["x"]

[[rules]]
name = "b"
principle = "-"
weight = 2
kind = "avoid"
words = ["y"]
"""


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PRESET + "cliprang = 0.2\n", ", line 5, preset 'mine': no field 'cliprang'"),
        (PRESET + "lam = 1.0\nbeta = -1.0\n", ", line 6, preset 'mine': beta must be at least 0, got -1.0"),
        (
            PRESET + "lam = 1.0\nkl_coef = -1.0\n",
            ", line 6, preset 'mine': beta must be at least 0, got -1.0",
        ),
        (PRESET + 'lam = "much"\n', ", line 5, preset 'mine': lam must be a number, got 'much'"),
        (PRESET.replace("note", "nota") + "lam = 1.0\n", ", line 3, preset 'mine': no key 'nota'"),
        (PRESET.replace('"n"', "3") + "lam = 1.0\n", ", line 3, preset 'mine': note: 3 came, text is needed"),
        (PRESET, ", line 4, preset 'mine': fields: nothing came"),
        ('[mine]\nsource = "\xff"\n'.encode("latin-1"), ", line 2: 'utf-8' codec can't decode byte 0xff"),
        ('[mine]\nsource = "me"\nfields = {\n', "(at line 3"),
    ],
)
def test_a_bad_preset_is_pointed_at(content: str | bytes, message: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    shown = refusal(capsys, "compare", f"ppo@{path}", "--task", "words")
    assert str(path) in shown
    assert message in shown


def test_what_was_typed_is_not_the_files_fault(tmp_path: Path, capsys) -> None:
    path = tmp_path / "p.toml"
    path.write_text(PRESET + "lam = 1.0\nbeta = -1.0\n")
    for options in ("beta=-2", "kl_coef=-2", "cliprange=-2,beta=1"):
        shown = refusal(capsys, "compare", f"ppo@{path}:{options}", "--task", "words")
        assert "got -2.0" in shown
        assert "p.toml" not in shown


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("weight = 2", "weight = -2", ", line 12, rule 2 'b', field 'weight': is -2"),
        ('words = ["y"]', "words = []", ", line 14, rule 2 'b', field 'words': is empty"),
        ('words = ["y"]', 'words = ["y", 1]', ", line 14, rule 2 'b', field 'words[1]': is a number"),
        ('principle = "-"\nweight = 2', "weight = 2", ", line 9, rule 2 'b', field 'principle': missing"),
        ('name = "mine"', "name = 3", ", line 1, field 'name': is a number"),
        ('name = "mine"', "", ": missing; needed are name, rules"),
        ("weight = 2", "weight = ", "(at line 12"),
    ],
)
def test_a_bad_rule_is_pointed_at(before: str, after: str, message: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "c.toml"
    path.write_text(RULES.replace(before, after))
    task = f"words:labels=ai,label_constitution={path}"
    shown = refusal(capsys, "compare", "dpo", "--task", task)
    assert str(path) in shown
    assert message in shown


def test_a_bad_rule_of_json_is_pointed_at(tmp_path: Path, capsys) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"name": "x",\n "rules": [\n  {"name": "a",\n   "weight": "3"}]}')
    task = f"words:labels=ai,label_constitution={path}"
    shown = refusal(capsys, "compare", "dpo", "--task", task)
    assert f"{path}, line 3, rule 1 'a', field 'principle': missing" in shown
    path.write_text('{"name": "x",\n "rules": [], "rules": [\n  {"name": "a",\n   "weight": "3"}]}')
    shown = refusal(capsys, "compare", "dpo", "--task", task)
    assert f"{path}, rule 1 'a', field 'principle': missing" in shown
