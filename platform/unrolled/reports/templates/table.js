/* ---- Tables sorted by a column: numbers from the largest, names from A; once more turns the order round. */

for (const button of document.querySelectorAll("[data-sort]")) {
  const header = button.closest("th");
  const headers = [...header.parentElement.cells];
  const body = header.closest("table").tBodies[0];
  const column = headers.indexOf(header);
  const isNumber = header.classList.contains("number");
  const value = (row) => {
    const cell = row.cells[column];
    if (!isNumber) return cell.textContent;
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  button.addEventListener("click", () => {
    const was = header.getAttribute("aria-sort");
    const down = was ? was === "ascending" : isNumber;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null); // rows without a number stay below
      const order = isNumber ? x - y : x.localeCompare(y, "en", { numeric: true });
      return down ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of headers) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
  });
}
