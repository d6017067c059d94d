/* ---- Long tables show their first rows in the order of the moment; a button shows all. */

for (const button of document.querySelectorAll("[data-shortens]")) {
  const table = document.getElementById(button.dataset.shortens);
  const count = table.tBodies[0].rows.length;
  if (count <= 15) continue; // as many as .short shows, and a few that are not worth a button
  const shorten = (is) => {
    table.classList.toggle("short", is);
    button.textContent = is ? `Show all ${count}` : "Show the first";
    button.setAttribute("aria-expanded", String(!is));
  };
  button.addEventListener("click", () => shorten(!table.classList.contains("short")));
  button.hidden = false;
  shorten(true);
}
