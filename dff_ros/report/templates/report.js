"use strict";
// Draws the figures that stand beside their places as JSON, in the colours of the page, light or dark.

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function template() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: colour("--rule"), zerolinecolor: colour("--rule"), linecolor: colour("--faint"), automargin: true,
    tickfont: { color: colour("--soft") }, title: { standoff: 10, font: { size: 13 } },
  };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
      font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--soft") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--faint"), font: { color: colour("--ink") }, align: "left" },
    },
  };
}

// The buttons are named one by one: plotly's own choice has one that sends the figure to a service.
const buttons = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
const options = { displaylogo: false, displayModeBar: "hover", responsive: true, modeBarButtons: buttons };
const drawn = [...document.querySelectorAll("script[data-plot]")].map((source) => {
  const place = document.getElementById(source.dataset.plot);
  const figure = JSON.parse(source.textContent);
  Plotly.newPlot(place, figure.data, { ...figure.layout, template: template() }, options);
  return place;
});
dark.addEventListener("change", () => drawn.forEach((place) => Plotly.relayout(place, { template: template() })));

for (const row of document.querySelectorAll(".pictures")) {
  const turn = () => row.classList.toggle("large");
  row.addEventListener("click", turn);
  row.addEventListener("keydown", (event) => event.key === "Enter" && turn());
}
