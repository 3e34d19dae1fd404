// Draws the Mermaid diagrams of a page, in the colours of the scheme that is chosen.
// A diagram that Mermaid refuses stays as text and is reported to the console.
(function () {
  let count = 0;

  async function drawAll() {
    const dark = document.body.getAttribute("data-md-color-scheme") === "slate";
    mermaid.initialize({ startOnLoad: false, theme: dark ? "dark" : "neutral" });
    for (const block of document.querySelectorAll("pre.diagram, div.diagram[data-source]")) {
      const source = block.dataset.source || block.textContent;
      count += 1;
      try {
        const drawn = await mermaid.render("diagram-" + count, source);
        const figure = document.createElement("div");
        figure.className = "diagram";
        figure.dataset.source = source;
        figure.innerHTML = drawn.svg;
        block.replaceWith(figure);
      } catch (error) {
        console.error("Mermaid: " + error.message);
      }
    }
  }

  document.addEventListener("DOMContentLoaded", function () {
    drawAll();
    new MutationObserver(drawAll).observe(document.body, {
      attributes: true,
      attributeFilter: ["data-md-color-scheme"],
    });
  });
})();
