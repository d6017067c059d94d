/* ---- Long tables show only their first rows in the current order, until a button shows all. */

for (const button of document.querySelectorAll("[data-shortens]")) {
  const table = document.getElementById(button.dataset.shortens);
  const count = table.tBodies[0].rows.length;
  if (count <= 15) continue; // the rows that .short shows, and a few more that need no button
  const shorten = (is) => {
    table.classList.toggle("short", is);
    button.textContent = is ? `Show all ${count}` : "Show the first";
    button.setAttribute("aria-expanded", String(!is));
  };
  button.addEventListener("click", () => shorten(!table.classList.contains("short")));
  button.hidden = false;
  shorten(true);
}
