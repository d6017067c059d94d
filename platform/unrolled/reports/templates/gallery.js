/* ---- Attention: a dark overlay on a photograph is transparent where the model looked when it wrote the chosen word. */

const DARKEST = 0.86;
const SVG = "http://www.w3.org/2000/svg";

/* A cell of the grid; border cells extend beyond the photograph, so that the blurred edges stay dark. */
function gridCell(index, side) {
  const [row, column] = [Math.floor(index / side), index % side];
  const [left, top] = [column === 0 ? -1 : column, row === 0 ? -1 : row];
  const node = document.createElementNS(SVG, "rect");
  const right = column === side - 1 ? side + 1 : column + 1;
  const bottom = row === side - 1 ? side + 1 : row + 1;
  for (const [key, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) {
    node.setAttribute(key, value);
  }
  return node;
}

function createOverlay(side) {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("viewBox", `0 0 ${side} ${side}`);
  node.setAttribute("preserveAspectRatio", "none");
  node.setAttribute("aria-hidden", "true");
  node.append(...Array.from({ length: side * side }, (_, index) => gridCell(index, side)));
  return node;
}

const attention = readData("attention-data");
for (const box of document.querySelectorAll("[data-attention]")) {
  const { side, words } = attention[box.dataset.attention];
  const overlay = createOverlay(side);
  const status = box.querySelector("p");
  box.parentElement.querySelector(".photo").append(overlay);
  const show = (index) => {
    const word = words[index];
    overlay.style.opacity = word ? 1 : 0;
    if (word) [...overlay.children].forEach((node, i) => { node.style.fillOpacity = DARKEST * (1 - word.percent[i] / 100); });
    status.textContent = word ? word.description : "";
  };
  box.addEventListener("input", (event) => show(event.target.value));
}
