"""The programs under examples/ run from an empty folder, and the code in docs/kernels.md does what it shows."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = {
    "torch_training.py": ["DPO step 2: kernels", "PPO step 2: kernels", "agree to float32 rounding"],
    "numba_rollout.py": ["one compiled call: (16, 32) float32"],
    "score_bfloat16.py": ["256 x 50,257 bfloat16", "one thread gives the same bits"],
}
without_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: run tox -e torch"
)


@pytest.fixture(scope="module")
def folder(checkout: Path) -> Path:
    return checkout / "examples"


def test_every_example_is_tested(folder: Path) -> None:
    assert {path.name for path in folder.glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=without_torch if "torch" in n else ()) for n in EXAMPLES]
)
def test_example(name: str, folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path, folder / name)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for text in EXAMPLES[name]:
        assert text in done.stdout
    assert len(done.stdout.splitlines()) < 12
    assert not list(tmp_path.iterdir())


def run(cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500)


WRONG = """
import runpy, sys
from kernels import from_logits
right = from_logits.dpo_from_logits
def wrong(*args, out, **kwargs):
    result = right(*args, out=out, **kwargs)
    out[0][:] *= 1.0001
    return result
from_logits.dpo_from_logits = wrong
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@without_torch
def test_the_torch_example_fails_on_a_wrong_gradient(folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "-c", WRONG, folder / "torch_training.py")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "they DIFFER"), done.stderr


def test_links_between_documents_lead_somewhere(checkout: Path) -> None:
    pages = [*checkout.glob("*.md"), *checkout.glob("docs/**/*.md"), *checkout.glob("outputs/*.md")]
    links = [
        (page, target)
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert len(links) > 20
    assert not [link for link in links if not (link[0].parent / link[1]).exists()]


# --- docs/kernels.md ---------------------------------------------------------------------------------------------


def blocks(text: str) -> dict[str, list[str]]:
    """The fenced code of a page by its language."""
    found: dict[str, list[str]] = {}
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
        found.setdefault(language, []).append(code)
    return found


def patched(diff: str, sign: str) -> str:
    """A diff's code before (sign "-") or after ("+")."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in f" {sign}")


@pytest.fixture(scope="module")
def page(checkout: Path) -> dict[str, list[str]]:
    return blocks((checkout / "docs" / "kernels.md").read_text(encoding="utf-8"))


def test_the_table_names_what_there_is(checkout: Path) -> None:
    text = (checkout / "docs" / "kernels.md").read_text(encoding="utf-8")
    table = text.partition("## From NumPy")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*) \|$", table, re.M)
    modules = [name for row, _ in rows for name in re.findall(r"`(\w+)`", row)]
    kernels = checkout / "kernels"
    files = {path.stem for path in kernels.glob("[a-z]*.py")}
    files |= {path.parent.name for path in kernels.glob("[a-z]*/__init__.py")}
    assert files - set(modules) <= {"reference_bag", "reference_loglinear"}
    for module, functions in rows:
        if module == "`torch`" and importlib.util.find_spec("torch") is None:
            continue
        owner = importlib.import_module(f"kernels.{module.partition('`, ')[0].strip('`')}")
        for name in re.findall(r"`(\w\w+)`", functions):
            assert hasattr(owner, name) or name == "_backward", f"{module} has no {name}"


def test_no_block_of_the_page_is_left_out(page: dict[str, list[str]]) -> None:
    assert set(page) == {"pycon", "diff"}, "each block is an example with its output, or a diff"


def test_examples_of_the_page(page: dict[str, list[str]]) -> None:
    """One after the other, as a reader would type them; what needs PyTorch only where it is."""
    code = [c for c in page["pycon"] if importlib.util.find_spec("torch") or "torch" not in c]
    test = doctest.DocTestParser().get_doctest("\n".join(code), {}, "docs/kernels.md", None, 0)
    assert test.examples
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, out=report.append).failed == 0, "".join(report)


def test_the_code_of_the_readme(checkout: Path) -> None:
    text = (checkout / "README.md").read_text(encoding="utf-8").partition("## The kernels")[2]
    code = re.match(r"\n\n((?:    .*\n|\n)+)", text)
    assert code
    names: dict[str, object] = {}
    exec(textwrap.dedent(code[1]), names)
    assert {"logprobs", "d_logits"} <= set(names)


SETTING = """
import torch
from torch.nn import functional as F
from trl.trainer.utils import selective_log_softmax
torch.manual_seed(0)
B, T, V, beta, epsilon = 4, 3, 50, 0.1, 0.2
logits = torch.randn(B, T, V).requires_grad_()
tokens, mask = torch.randint(V, (B, T)), torch.tensor([[1, 1, 0]] * B)
labels = torch.where(mask.bool(), tokens, -100)
ref_logps, old_logprobs, advantages = torch.randn(B), torch.randn(B, T) - 4, torch.randn(B, T)
"""


@without_torch
def test_the_replacements_of_the_page_change_nothing(
    page: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    trl = ModuleType("trl.trainer.utils")  # what TRL computes, without TRL
    trl.selective_log_softmax = lambda x, i: x.log_softmax(-1).gather(-1, i[..., None]).squeeze(-1)  # type: ignore[attr-defined]
    for name in ("trl", "trl.trainer", "trl.trainer.utils"):
        monkeypatch.setitem(sys.modules, name, trl)
    seen = 0
    for diff in page["diff"]:
        results = []
        for sign in "-+":
            names: dict[str, object] = {}
            exec(SETTING + patched(diff, sign), names)
            result = names["loss"] if "loss" in names else names["logprobs"]
            assert isinstance(result, torch.Tensor)
            result.sum().backward()
            leaf = names["logits"]
            assert isinstance(leaf, torch.Tensor)
            results.append((result.detach(), leaf.grad))
        for before, after in zip(*results, strict=True):
            torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-6)
        seen += 1
    assert seen >= 3
