"""Pages of notebooks: their text, code and saved outputs as Markdown."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

IMAGES = {"image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/svg+xml": ".svg"}


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and its images by name.

    Args:
        path: of the notebook.
    """
    parts, images = [], {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source.strip():
            parts.append(fence(source, "python"))
            for output in cell["outputs"]:
                if output.get("name") == "stderr":  # warnings and progress bars
                    continue
                name = f"{path.stem}-{len(images)}"
                text, found = output_page(output, name)
                parts.append(text)
                images |= found
    return "\n\n".join(parts) + "\n", images


def output_page(output: Mapping[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of a cell's output, and its image if it has one.

    Args:
        output: as the notebook has it.
        name: of the image, without its ending.
    """
    data = output.get("data", {})
    if output["output_type"] == "stream":
        data = {"text/plain": output["text"]}
    elif output["output_type"] == "error":
        data = {"text/plain": f"{output['ename']}: {output['evalue']}"}
    for kind, ending in IMAGES.items():
        if kind in data:
            content = "".join(data[kind])
            binary = content.encode() if ending == ".svg" else base64.b64decode(content)
            return f"![output]({name}{ending})", {name + ending: binary}
    if "text/html" in data:
        return f'<div class="output">\n{"".join(data["text/html"])}\n</div>', {}
    return fence("".join(data.get("text/plain", "")), "text"), {}


def fence(text: str, language: str) -> str:
    """A code block, also of a text that has fences itself."""
    ticks = "````" if "```" in text else "```"
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"
