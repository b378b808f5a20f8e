"""The row model that terminal and Markdown share: blocks of sheets and notes, made of plain strings.

Everything shown goes through here, so text from data is sanitised in one place and never read as rich markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isclose
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TypeAlias

from .text import sanitize

if TYPE_CHECKING:
    from rich.console import RenderableType

GAP = 2  # blanks between the columns of a table
LONGEST_HEAD = 24
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Sheet:
    """A table; the first column names the rows.

    Parameters
    ----------
    head : tuple of str
        One heading a column.
    rows : sequence of tuples of str
        As many cells each.
    title : str
        Shown above; may be empty.
    prose : bool
        Cells hold text that may be broken over lines; otherwise no cell is ever broken.
    """

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    title: str = ""
    prose: bool = False

    def widths(self) -> list[int]:
        """Characters that each column needs."""
        return [max(map(_length, column)) for column in zip(self.head, *self.rows, strict=True)]

    def columns(self, wanted: Sequence[int]) -> Sheet:
        """The same with these columns only."""
        rows = [tuple(row[i] for i in wanted) for row in self.rows]
        return replace(self, head=tuple(self.head[i] for i in wanted), rows=rows)

    def split(self, width: int) -> list[Sheet]:
        """Sheets no wider than `width`, each with the first column, so that no number is cut."""
        if self.prose:
            return [self]
        widths = self.widths()
        groups: list[list[int]] = [[0]]
        used = widths[0]
        for i in range(1, len(widths)):
            if used + GAP + widths[i] > width and len(groups[-1]) > 1:
                groups.append([0])
                used = widths[0]
            groups[-1].append(i)
            used += GAP + widths[i]
        sheets = [self.columns(group) for group in groups]
        return [sheets[0], *(replace(s, title="") for s in sheets[1:])]


@dataclass(frozen=True)
class Note:
    """A paragraph; `style` is rich's, `whole` keeps it on one line, as commands and paths need.

    `lead` stands before the first line, the others begin below its end.
    """

    text: str
    style: str = ""
    whole: bool = False
    indent: int = 0
    lead: str = ""


Block: TypeAlias = Sheet | Note


def renderables(blocks: Sequence[Block], width: int) -> Iterator[tuple[RenderableType, bool]]:
    """What rich prints, and whether its lines are to be left as they are."""
    from rich.text import Text

    before: Block | None = None
    for block in blocks:
        if before is not None and (isinstance(block, Sheet) or isinstance(before, Sheet)):
            yield Text(), False
        before = block
        if isinstance(block, Note):
            yield Text("\n".join(_paragraph(block, width)), style=block.style), True
            continue
        for number, sheet in enumerate(block.split(width)):
            if number:
                yield Text(), False
            yield _table(sheet), False


def _paragraph(note: Note, width: int) -> list[str]:
    text, margin = sanitize(note.text), " " * note.indent
    if note.whole or not text:
        return [margin + text]
    lead = sanitize(note.lead)
    options: dict[str, Any] = {
        "break_on_hyphens": False,
        "break_long_words": bool(lead),
        "initial_indent": margin + lead,
        "subsequent_indent": margin + " " * len(lead),
    }
    return wrap(text, max(width, 20 + len(lead)), **options)


def _table(sheet: Sheet) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(sanitize(sheet.title), style="bold")] if sheet.title else []
    parts.append(_prose(sheet) if sheet.prose else Text("\n".join(_lines(sheet)), no_wrap=True))
    return Group(*parts)


def _lines(sheet: Sheet) -> list[str]:
    """The rows in columns, the first to the left and the others to the right, with a rule below the heading."""
    widths = sheet.widths()

    def line(row: tuple[str, ...]) -> str:
        cells = [sanitize(cell) for cell in row]
        blanks = [" " * (w - _length(c)) for w, c in zip(widths, cells, strict=True)]
        first, *others = (
            (c + b if i == 0 else b + c) for i, (c, b) in enumerate(zip(cells, blanks, strict=True))
        )
        return (" " * GAP).join([first, *others]).rstrip()

    rule = "-" * (sum(widths) + GAP * (len(widths) - 1))
    return [line(sheet.head), rule, *(line(row) for row in sheet.rows)]


def _prose(sheet: Sheet) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.HORIZONTALS, padding=(0, GAP, 0, 0), pad_edge=False, show_edge=False, show_lines=True
    )
    for number, name in enumerate(sheet.head):
        table.add_column(Text(sanitize(name)), ratio=1 if number == 0 else 2, overflow="fold")
    for row in sheet.rows:
        table.add_row(*(Text(sanitize(cell)) for cell in row))
    return table


def markdown(blocks: Sequence[Block]) -> str:
    """The same blocks as a Markdown document."""
    parts = []
    for block in blocks:
        if isinstance(block, Note):
            text = _escaped(block.text)
            parts.append(
                f"    {sanitize(block.text)}"
                if block.whole
                else f"**{text}**"
                if block.style == "bold"
                else text
            )
            continue
        lines = [
            block.head,
            ("---", *["---" if block.prose else "---:"] * (len(block.head) - 1)),
            *block.rows,
        ]
        body = "\n".join(
            "| " + " | ".join(_escaped(c) if i != 1 else c for c in line) + " |"
            for i, line in enumerate(lines)
        )
        parts.append(f"**{_escaped(block.title)}**\n\n{body}" if block.title else body)
    return "\n\n".join(parts) + "\n"


def _escaped(text: str) -> str:
    text = sanitize(text).replace("\\", "\\\\").replace("\n", " ")
    for char in "|*_<>`#[]":
        text = text.replace(char, "\\" + char)
    return text


def _length(text: str) -> int:
    from rich.cells import cell_len

    return max((cell_len(line) for line in sanitize(text).split("\n")), default=0)


# --- words ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """What things are called beside one kind of gold and of reward.

    Parameters
    ----------
    gold : str
        ``gold`` where the true reward is known, ``judge`` where a model stands in for it, else ``accuracy``.
    score : str
        What algorithms are rewarded with.
    giver : str
        Who gives that score.
    """

    gold: str
    score: str
    giver: str

    @classmethod
    def of(cls, gold: str, reward: str) -> Names:
        """For kinds as in `Comparison`."""
        wanted = {"judge": "judge", "verifier": "accuracy"}.get(gold, "gold")
        if reward == "model":
            return cls(wanted, "RM score", "RM")
        if reward == "mixed":
            return cls(wanted, "reward", "reward")
        return cls(wanted, wanted if reward == "gold" else "verifier score", "verifier")

    @property
    def one(self) -> bool:
        """Whether gold itself is the reward, so that there is one score to show and nothing to hack."""
        return self.score == self.gold

    @property
    def gold_score(self) -> str:
        """The same, as the name of a number."""
        return self.gold if self.gold == "accuracy" else f"{self.gold} score"

    def in_text(self, reason: str) -> str:
        """A text of `hacking`, which speaks of gold and RM score, in these names."""
        return reason.replace("gold", self.gold).replace("RM score", self.score)


def counted(n: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "seed"), counted(2, "seed"), counted(2, "worker process")
    ('1 seed', '2 seeds', '2 worker processes')
    """
    plural = "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}{'' if n == 1 else plural}"


# --- numbers -------------------------------------------------------------------------------------------------------


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with so many decimals and thousands separators, a dash for None; never ``-0.00``.

    >>> fixed(-0.001), fixed(1234.5, 0), fixed(None)
    ('0.00', '1,234', '-')
    """
    if value is None:
        return "-"
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not float(text.replace(",", "")) else text


def percent(share: float, digits: int = 1) -> str:
    """A share of 1 in per cent.

    >>> percent(0.0412), percent(0.95, 0)
    ('4.1 %', '95 %')
    """
    return f"{100 * share:.{digits}f} %"


def decimals(values: Sequence[float | None]) -> int:
    """Decimals that give the largest of `values` three significant digits, at most two.

    >>> decimals([0.1, 12.0]), decimals([250.0]), decimals([])
    (1, 0, 2)
    """
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return 2 if largest < 10 else 1 if largest < 100 else 0


def unit(values: Sequence[float | None], smallest: float = 1e3) -> tuple[float, str]:
    """Divisor and SI prefix that suit the largest of `values`; none under `smallest`.

    >>> unit([2.5e9, 1e6]), unit([12.0])
    ((1000000000.0, 'G'), (1.0, ''))
    """
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    return next((p for p in PREFIXES if largest >= max(p[0], smallest)), (1.0, ""))


def interval(
    estimate: float | None, low: float | None, high: float | None, digits: int, divisor: float = 1.0
) -> str:
    """``2.31 [2.10, 2.52]``; the brackets only where there is an interval that is more than a point.

    >>> interval(2.314, 2.1, 2.52, 2), interval(500, 500, 500, 0), interval(1.5, None, None, 1)
    ('2.31 [2.10, 2.52]', '500', '1.5')
    >>> interval(0, None, None, 2)
    '0'
    """
    shown = [None if v is None else v / divisor for v in (estimate, low, high)]
    text = "0" if shown[0] == 0.0 and not any(shown) else fixed(shown[0], digits)
    if shown[0] is None or shown[1] is None or shown[2] is None or isclose(shown[1], shown[2], rel_tol=1e-9):
        return text
    return f"{text} [{fixed(shown[1], digits)}, {fixed(shown[2], digits)}]"


def heading(label: str) -> str:
    """A label short enough to head a column; the middle goes, so that ``#2`` stays."""
    if len(label) <= LONGEST_HEAD:
        return label
    half = LONGEST_HEAD // 2
    return f"{label[: half - 1]}…{label[-half:]}"


def spelled(label: str, typed: str) -> str:
    """An arm as it was typed, with blanks to break it at, where its label does not say all of that; else nothing.

    >>> spelled("ppo#2", "ppo:beta=0.1,lam=1"), spelled("ppo", "ppo"), spelled("ppo beta=1", "ppo:beta=1")
    ('ppo:beta=0.1, lam=1', '', '')
    """
    says_all = typed in (label, label.replace(" ", ":", 1))
    return "" if says_all else typed.replace(",", ", ")


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


SPARKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None]) -> str:
    """One block a value, from the lowest to the highest of them; a blank where there is none.

    >>> sparkline([0, 1, None, 2])
    '▁▅ █'
    """
    known = [v for v in values if v is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    scale = (len(SPARKS) - 1) / (high - low) if high > low else 0.0
    return "".join(" " if v is None else SPARKS[int((v - low) * scale + 0.5)] for v in values)
