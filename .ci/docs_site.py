"""What `make docs` adds to the pages of docs/: a hook of mkdocs.

Pages that are files elsewhere in the repository: examples/*.py, examples/*.ipynb, CONTRIBUTING.md and CHANGELOG.md. And
copies of files that pages link to outside docs/, as `../benchmarks/results/kernel_report.md`: the site has them under
repository/.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_BESIDE = re.compile(r"(?<=\]\()(?!\.\./)([\w./-]+\.\w+)(?=[)#])")  # the target of a link that stays in its folder
_OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")  # the target of a link or picture of a page in docs/ itself


def example_page(path: Path) -> str:
    """A script as a page: its docstring, then its code."""
    text = path.read_text()
    summary, _, rest = (ast.get_docstring(ast.parse(text)) or path.name).partition("\n")
    code = re.sub(r'\A""".*?"""\n+', "", text, flags=re.DOTALL)
    return f'# {summary.rstrip(".")}\n\n{rest.strip()}\n\n```python title="examples/{path.name}"\n{code}```\n'


def notebook_page(path: Path) -> str:
    """A notebook as a page: its texts, its code and the outputs it was committed with."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                parts.append(f"![output](data:image/png;base64,{''.join(picture.split())})")
            else:
                parts.append(f"```text\n{''.join(output['text'])}```")
    return "\n\n".join([*parts, f"The notebook is `examples/{path.name}`.\n"])


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and files that are not in docs/."""
    for path in sorted((ROOT / "examples").glob("*.py")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=example_page(path)))
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        files.append(File.generated(config, f"examples/{path.stem}.md", content=notebook_page(path)))
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = re.sub(r"\]\(docs/", "](", (ROOT / f"{name}.md").read_text())
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    outside = {target for page in (ROOT / "docs").glob("*.md") for target in _OUTSIDE.findall(page.read_text())}
    for page in [target for target in outside if target.endswith(".md")]:  # the pictures and pages that a copy links to
        folder = (ROOT / page).parent
        near = [folder / target for target in _BESIDE.findall((ROOT / page).read_text())]
        outside |= {str(file.relative_to(ROOT)) for file in near if file.is_file()}
    for target in sorted(outside):
        files.append(File.generated(config, f"repository/{target}", abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, **others: Any) -> str:
    """Lead links out of docs/ to the copies."""
    return _OUTSIDE.sub(r"repository/\1", markdown)
