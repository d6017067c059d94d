/* ---- Where it looked: a veil over a photograph is lifted where the model looked when it wrote the chosen word. */

const DARKEST = 0.86;
const SVG = "http://www.w3.org/2000/svg";

/* One field of the grid; those at the border reach beyond the photograph, so that blurring leaves its edges dark. */
function field(place, side) {
  const [row, column] = [Math.floor(place / side), place % side];
  const [left, top] = [column === 0 ? -1 : column, row === 0 ? -1 : row];
  const node = document.createElementNS(SVG, "rect");
  const right = column === side - 1 ? side + 1 : column + 1;
  const bottom = row === side - 1 ? side + 1 : row + 1;
  for (const [key, value] of Object.entries({ x: left, y: top, width: right - left, height: bottom - top })) {
    node.setAttribute(key, value);
  }
  return node;
}

function veil(side) {
  const node = document.createElementNS(SVG, "svg");
  node.setAttribute("viewBox", `0 0 ${side} ${side}`);
  node.setAttribute("preserveAspectRatio", "none");
  node.setAttribute("aria-hidden", "true");
  node.append(...Array.from({ length: side * side }, (_, place) => field(place, side)));
  return node;
}

const gazes = readData("gazes-data");
for (const box of document.querySelectorAll("[data-gaze]")) {
  const { side, words } = gazes[box.dataset.gaze];
  const cover = veil(side);
  const told = box.querySelector("p");
  box.parentElement.querySelector(".seen").append(cover);
  const look = (place) => {
    const word = words[place];
    cover.style.opacity = word ? 1 : 0;
    if (word) [...cover.children].forEach((node, i) => { node.style.fillOpacity = DARKEST * (1 - word.seen[i] / 100); });
    told.textContent = word ? word.told : "";
  };
  box.addEventListener("input", (event) => look(event.target.value));
}
