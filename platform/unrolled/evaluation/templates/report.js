const byId = (id) => document.getElementById(id);

/* Texts of a data set enter the page through this function alone, so they are never read as markup. */
function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

/* ---- Examples */

const examples = readData("examples-data");
const PAGE_SIZE = 10;
const OPERATIONS = { "1": "ins", "-1": "del" };

const outputText = (pieces) => pieces.filter(([kind]) => kind >= 0).map(([, text]) => text).join("");
const score = (row, strategy) => row.scores[strategy] ?? null;

function piecesNode(pieces) {
  const node = element("dd");
  node.dir = "auto";
  for (const [kind, text] of pieces) {
    const words = text.trimStart();
    node.append(text.slice(0, text.length - words.length));
    node.append(kind === 0 ? words : element(OPERATIONS[kind], "", words));
  }
  return node;
}

function exampleNode(row, strategies) {
  const item = element("li");
  const input = element("p", "input");
  const words = element("span", "", row.input);
  words.dir = "auto";
  input.append(element("small", "", `#${row.index}`), words);
  const answers = element("dl", "answers");
  if (row.reference) {
    const line = element("div", "reference");
    const text = element("dd", "", row.reference);
    text.dir = "auto";
    line.append(element("dt", "", "Reference"), text);
    answers.append(line);
  }
  for (const { name, title, colour } of strategies) {
    if (!(name in row.outputs)) continue;
    const line = element("div");
    const label = element("dt", "", title);
    const swatch = element("i", "swatch");
    swatch.style.background = colour;
    label.prepend(swatch);
    line.append(label, piecesNode(row.outputs[name]));
    const value = score(row, name);
    if (value !== null) {
      const number = element("dd", "score", value.toFixed(1));
      number.title = "chrF of this sentence";
      line.append(number);
    }
    answers.append(line);
  }
  item.append(input, answers);
  return item;
}

function showExtremes() {
  const leader = examples.strategies.filter(({ name }) => name === examples.strategy);
  for (const [title, rows] of [["Best", examples.best], ["Worst", examples.worst]]) {
    if (!rows.length) continue;
    const box = element("div");
    const list = element("ol", "examples");
    list.append(...rows.map((row) => exampleNode(row, leader)));
    box.append(element("h3", "", `${title} of ${leader[0].title.toLowerCase()}`), list);
    byId("extremes").append(box);
  }
}

const ascending = (key) => (a, b) => {
  const [x, y] = [key(a), key(b)];
  return x === null || y === null ? (x === null) - (y === null) : x - y; // rows without a score come last
};
const spread = (row) => Math.max(...Object.values(row.scores)) - Math.min(...Object.values(row.scores));
const SORTS = {
  index: ["Index", () => ascending((row) => row.index)],
  worst: ["Score, lowest first", (of) => ascending((row) => score(row, of))],
  best: ["Score, highest first", (of) => ascending((row) => (score(row, of) === null ? null : -score(row, of)))],
  spread: ["Scores most apart", () => ascending((row) => -spread(row))],
  longest: ["Longest first", () => ascending((row) => -row.input.length)],
  shortest: ["Shortest first", () => ascending((row) => row.input.length)],
};

function startBrowser() {
  const several = examples.strategies.length > 1;
  const scored = examples.rows.some((row) => Object.keys(row.scores).length);
  const option = (value, text) => Object.assign(element("option", "", text), { value });
  for (const [name, [text]] of Object.entries(SORTS)) {
    if ((["worst", "best"].includes(name) && !scored) || (name === "spread" && !(scored && several))) continue;
    byId("sort").append(option(name, text));
  }
  byId("score-of").append(...examples.strategies.map(({ name, title }) => option(name, title)));
  byId("score-of").value = examples.strategy;
  byId("score-of-box").hidden = !(several && scored);
  byId("disagree-box").hidden = !several;
  for (const row of examples.rows) {
    const outputs = Object.values(row.outputs).map(outputText);
    row.haystack = [row.input, row.reference, ...outputs].join("\n").toLowerCase();
  }

  let page = 0;
  let matches = [];
  const show = () => {
    const pages = Math.max(1, Math.ceil(matches.length / PAGE_SIZE));
    const rows = matches.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    byId("list").replaceChildren(...rows.map((row) => exampleNode(row, examples.strategies)));
    if (!rows.length) byId("list").append(element("li", "empty", "No example matches. Try fewer words."));
    byId("page").textContent = `Page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page + 1 >= pages;
  };
  const choose = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const onlyDisagreeing = byId("disagree").checked;
    matches = examples.rows
      .filter((row) => words.every((word) => row.haystack.includes(word)) && (!onlyDisagreeing || row.disagree))
      .sort(SORTS[byId("sort").value][1](byId("score-of").value));
    const all = examples.rows.length;
    const selection = all < examples.total
      ? ` (an even selection of ${examples.total.toLocaleString("en")}; all are in outputs.jsonl)` : "";
    byId("count").textContent =
      `${matches.length.toLocaleString("en")} of ${all.toLocaleString("en")} examples${selection}`;
    page = 0;
    show();
  };
  const turn = (by) => { page += by; show(); byId("browser").scrollIntoView(); };
  for (const id of ["search", "sort", "score-of", "disagree"]) byId(id).addEventListener("input", choose);
  byId("missing").addEventListener("input", (event) => {
    byId("examples").classList.toggle("missing", event.target.checked);
  });
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("browser").hidden = false;
  choose();
}

if (examples.total) {
  showExtremes();
  startBrowser();
}
