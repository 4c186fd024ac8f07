// Equations of Markdown, which pymdownx.arithmatex wraps in \( \) and \[ \], by KaTeX.
for (const node of document.querySelectorAll(".arithmatex")) {
  const source = node.textContent.trim();
  katex.render(source.slice(2, -2), node, {
    displayMode: source.startsWith("\\["),
    throwOnError: false,
  });
}
