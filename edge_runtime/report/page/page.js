"use strict";
// Draws every figure of the page, in the colours that the reader's system asks for.
(() => {
  const look = (ink, soft, line, colorway, shade) => ({
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif', size: 13, color: ink },
      colorway,
      xaxis: { gridcolor: line, linecolor: soft, zerolinecolor: line, automargin: true, ticks: "outside", tickcolor: line, title: { standoff: 8 } },
      yaxis: { gridcolor: line, linecolor: soft, zerolinecolor: line, automargin: true, title: { standoff: 6 } },
      shapedefaults: { fillcolor: shade, line: { color: soft } },
      annotationdefaults: { font: { color: soft, size: 12 } },
      legend: { bgcolor: "rgba(0,0,0,0)" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
    },
  });
  const light = look("#1c2026", "#5a6472", "#e3e7ec",
    ["#0b57d0", "#c2410c", "#047857", "#7e22ce", "#a16207", "#be123c"], "rgba(90,100,114,0.14)");
  const dark = look("#e7eaee", "#9ba6b3", "#2c333c",
    ["#8ab4f8", "#fdba74", "#6ee7b7", "#d8b4fe", "#fde047", "#fda4af"], "rgba(155,166,179,0.18)");

  const isDark = window.matchMedia("(prefers-color-scheme: dark)");
  const isTouch = window.matchMedia("(pointer: coarse)");
  const plots = [];
  const theme = () => (isDark.matches ? dark : light);
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  for (const source of document.querySelectorAll("script.figure")) {
    const figure = JSON.parse(source.textContent);
    const plot = document.getElementById(source.dataset.plot);
    const layout = { ...figure.layout, template: theme() };
    if (isTouch.matches) layout.dragmode = false; // a finger scrolls the page
    plots.push(plot);
    Plotly.newPlot(plot, figure.data, layout, config);
  }
  const paint = (template) => Promise.all(plots.map((plot) => Plotly.relayout(plot, { template })));
  isDark.addEventListener("change", () => paint(theme()));
  window.addEventListener("beforeprint", () => paint(light));
  window.addEventListener("afterprint", () => paint(theme()));

  // A table that is wider than its place says so.
  const measure = () => {
    for (const table of document.querySelectorAll(".scroll")) {
      table.classList.toggle("wide", table.scrollWidth > table.clientWidth + 1);
    }
  };
  window.addEventListener("resize", measure);
  measure();
})();
