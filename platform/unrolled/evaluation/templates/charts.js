"use strict";

const readData = (id) => JSON.parse(document.getElementById(id).textContent);
const root = document.documentElement;

/* ---- Charts: figures name their colours as CSS variables; the value of the moment takes their place. */

const figures = readData("figures-data");

function painted(value, style) {
  if (Array.isArray(value)) return value.map((item) => painted(item, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, style)]));
  }
  const variable = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
  return variable ? style.getPropertyValue(variable[1]).trim() : value;
}

function drawCharts() {
  const style = getComputedStyle(root);
  const touch = matchMedia("(pointer: coarse)").matches;
  for (const place of document.querySelectorAll("[data-chart]")) {
    const figure = painted(figures[place.dataset.chart], style);
    figure.layout.font.family = getComputedStyle(document.body).fontFamily;
    figure.layout.dragmode = touch ? false : "zoom"; // a finger scrolls the page
    Plotly.react(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
addEventListener("beforeprint", () => { root.dataset.printing = ""; drawCharts(); });
addEventListener("afterprint", () => { delete root.dataset.printing; drawCharts(); });
