/* ---- Copy buttons */

async function copy(button) {
  const code = button.parentElement.querySelector("code");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code); // no permission: the text is selected, a key copies it
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1600);
}

for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
