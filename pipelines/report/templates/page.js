"use strict";
/* The page is complete without this script. It adds: filter, open all details, unfold long texts. */
const tools = document.getElementById("tools");
if (tools) {
  tools.hidden = false;
  const cards = [...document.querySelectorAll("article.card")];
  const found = document.getElementById("found");
  document.getElementById("filter").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    let hits = 0;
    for (const card of cards) {
      const hit = card.textContent.toLowerCase().includes(wanted);
      card.hidden = !hit;
      hits += hit;
    }
    found.textContent = wanted ? hits + " of " + cards.length + " shown" : "";
  });
  document.getElementById("open-all").addEventListener("click", (event) => {
    const all = [...document.querySelectorAll("article.card details")];
    const open = !all.every((details) => details.open);
    for (const details of all) details.open = open;
    event.target.setAttribute("aria-pressed", String(open));
  });
}
for (const text of document.querySelectorAll(".card .text")) {
  text.removeAttribute("tabindex");
  if (text.scrollHeight <= text.clientHeight + 4) continue;
  text.classList.add("clipped");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet unfold";
  button.textContent = "Show the whole text";
  button.addEventListener("click", () => {
    const open = text.classList.toggle("open");
    button.textContent = open ? "Show less" : "Show the whole text";
  });
  text.after(button);
}
