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
const MANY = 4; // strategies from which their names stand above an output, not beside it
const OPERATIONS = { "1": "ins", "-1": "del" };

const outputText = (pieces) => pieces.filter(([kind]) => kind >= 0).map(([, text]) => text).join("");
const score = (row, place) => row.scores[place] ?? null;
const leader = examples.leader;

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

function answerNode(row, { by, pieces }) {
  const line = element("div");
  const label = element("dt");
  const all = examples.strategies.length;
  if (by.length === all && all > MANY) label.append(`All ${all} strategies`);
  else for (const place of by) {
    const { title, colour } = examples.strategies[place];
    const swatch = element("i", "swatch");
    swatch.style.background = colour;
    const name = element("span", "", title);
    name.prepend(swatch);
    label.append(name);
  }
  line.append(label, piecesNode(pieces));
  const value = score(row, by[0]);
  if (value !== null) {
    const number = element("dd", "score", value.toFixed(1));
    number.title = "chrF of this sentence";
    line.append(number);
  }
  return line;
}

function listingNode(row) {
  const box = element("details", "nbest");
  const list = element("ol");
  for (const [text, value] of row.nbest) {
    const entry = element("li");
    const words = element("span", "", text);
    words.dir = "auto";
    entry.append(words);
    if (value !== null) entry.append(element("small", "", value.toFixed(2).replace("-", "−")));
    list.append(entry);
  }
  const { title } = examples.strategies[examples.listing];
  box.append(element("summary", "", `The ${row.nbest.length} best of ${title}`), list);
  return box;
}

/* Strategies that answered the same share a line; `chosen` says whose lines to show. */
function exampleNode(row, chosen = () => true) {
  const item = element("li");
  const input = element("p", "input");
  const words = element("span", "", row.input);
  words.dir = "auto";
  input.append(element("small", "", `#${row.index}`), words);
  const answers = element("dl", examples.strategies.length > MANY ? "answers many" : "answers");
  if (row.references.length) {
    const line = element("div", "reference");
    line.append(element("dt", "", row.references.length > 1 ? "References" : "Reference"));
    for (const reference of row.references) {
      const text = element("dd", "", reference);
      text.dir = "auto";
      line.append(text);
    }
    answers.append(line);
  }
  for (const answer of row.answers) {
    const by = answer.by.filter(chosen);
    if (by.length) answers.append(answerNode(row, { by, pieces: answer.pieces }));
  }
  item.append(input, answers);
  return item;
}

function showExtremes() {
  const { title } = examples.strategies[leader];
  for (const [which, rows] of [["Highest", examples.best], ["Lowest", examples.worst]]) {
    if (!rows.length) continue;
    const box = element("div");
    const list = element("ol", "examples");
    list.append(...rows.map((row) => exampleNode(row, (place) => place === leader)));
    box.append(element("h3", "", `${which} scores of ${title}`), list);
    byId("extremes").append(box);
  }
}

const ascending = (key) => (a, b) => {
  const [x, y] = [key(a), key(b)];
  return x === null || y === null ? (x === null) - (y === null) : x - y; // rows without a score come last
};
const known = (row) => row.scores.filter((value) => value !== null);
const spread = (row) => (known(row).length ? Math.max(...known(row)) - Math.min(...known(row)) : null);
const lead = (row, of, over) =>
  (score(row, of) === null || score(row, over) === null ? null : score(row, of) - score(row, over));
const falling = (key) => ascending((row) => (key(row) === null ? null : -key(row)));
const SORTS = {
  index: ["Index", () => ascending((row) => row.index)],
  worst: ["Score, lowest first", (of) => ascending((row) => score(row, of))],
  best: ["Score, highest first", (of) => falling((row) => score(row, of))],
  lead: ["Score difference of two", (of, over) => falling((row) => lead(row, of, over))],
  spread: ["Scores most apart", () => falling(spread)],
  disagreement: ["Most different outputs", () => falling((row) => row.answers.length)],
  longest: ["Longest first", () => ascending((row) => -row.input.length)],
  shortest: ["Shortest first", () => ascending((row) => row.input.length)],
};
const OF_SCORES = ["worst", "best", "lead", "spread"];
const OF_SEVERAL = ["lead", "spread", "disagreement"];

function startBrowser() {
  const several = examples.strategies.length > 1;
  const scored = examples.rows.some((row) => known(row).length);
  const option = (value, text) => Object.assign(element("option", "", text), { value });
  for (const [name, [text]] of Object.entries(SORTS)) {
    if ((OF_SCORES.includes(name) && !scored) || (OF_SEVERAL.includes(name) && !several)) continue;
    byId("sort").append(option(name, text));
  }
  for (const id of ["score-of", "against"]) {
    byId(id).append(...examples.strategies.map(({ title }, place) => option(place, title)));
  }
  byId("score-of").value = leader;
  byId("against").value = leader === 0 ? Math.min(1, examples.strategies.length - 1) : 0;
  byId("disagree-box").hidden = !several;
  for (const row of examples.rows) {
    const outputs = row.answers.map(({ pieces }) => outputText(pieces));
    row.haystack = [row.input, ...row.references, ...outputs].join("\n").toLowerCase();
  }

  let page = 0;
  let matches = [];
  const show = () => {
    const pages = Math.max(1, Math.ceil(matches.length / PAGE_SIZE));
    const rows = matches.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
    byId("list").replaceChildren(...rows.map((row) => {
      const item = exampleNode(row);
      if (row.nbest) item.append(listingNode(row));
      return item;
    }));
    if (!rows.length) byId("list").append(element("li", "empty", "No example matches. Try fewer words."));
    byId("page").textContent = `Page ${page + 1} of ${pages}`;
    byId("previous").disabled = page === 0;
    byId("next").disabled = page + 1 >= pages;
  };
  const choose = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const onlyDisagreeing = byId("disagree").checked;
    const sort = byId("sort").value;
    byId("score-of-box").hidden = !(several && ["worst", "best", "lead"].includes(sort));
    byId("against-box").hidden = sort !== "lead";
    matches = examples.rows
      .filter((row) => words.every((word) => row.haystack.includes(word)) && (!onlyDisagreeing || row.answers.length > 1))
      .sort(SORTS[sort][1](Number(byId("score-of").value), Number(byId("against").value)));
    const all = examples.rows.length;
    const selection = all < examples.total
      ? ` (an even selection of ${examples.total.toLocaleString("en")}; all are in outputs.jsonl)` : "";
    byId("count").textContent =
      `${matches.length.toLocaleString("en")} of ${all.toLocaleString("en")} examples${selection}`;
    page = 0;
    show();
  };
  const turn = (by) => { page += by; show(); byId("browser").scrollIntoView(); };
  for (const id of ["search", "sort", "score-of", "against", "disagree"]) byId(id).addEventListener("input", choose);
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
