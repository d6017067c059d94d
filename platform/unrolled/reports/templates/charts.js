"use strict";

const readData = (id) => JSON.parse(document.getElementById(id).textContent);
const root = document.documentElement;

/* ---- Charts: colours of figures are names of CSS variables, which are replaced by their current values. */

const figures = readData("figures-data");

function resolveColours(value, style) {
  if (Array.isArray(value)) return value.map((item) => resolveColours(item, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolveColours(item, style)]));
  }
  const variable = typeof value === "string" && /^var\((--[\w-]+)\)$/.exec(value);
  return variable ? style.getPropertyValue(variable[1]).trim() : value;
}

function draw(place) {
  const figure = resolveColours(figures[place.dataset.chart], getComputedStyle(root));
  figure.layout.font.family = getComputedStyle(document.body).fontFamily;
  figure.layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom"; // a finger scrolls the page
  Plotly.react(place, figure.data, figure.layout, { responsive: !figure.layout.width, displayModeBar: false });
}

const drawCharts = () => document.querySelectorAll("[data-chart]").forEach(draw);

for (const select of document.querySelectorAll("[data-chooses]")) {
  select.addEventListener("input", () => {
    const place = document.getElementById(select.dataset.chooses);
    place.dataset.chart = select.value;
    place.style.minHeight = `${figures[select.value].layout.height}px`;
    place.setAttribute("aria-label", select.selectedOptions[0].dataset.label);
    draw(place);
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
addEventListener("beforeprint", () => { root.dataset.printing = ""; drawCharts(); });
addEventListener("afterprint", () => { delete root.dataset.printing; drawCharts(); });
