"use strict";
const field = document.getElementById("search"), found = document.getElementById("found");
const parts = [...document.querySelectorAll("[data-ids]")];
field.closest("form").hidden = false;
const rest = document.querySelector("details.rest");
const show = () => {
  const wanted = field.value.trim().toLowerCase();
  let count = 0;
  for (const part of parts) {
    part.hidden = wanted !== "" && !part.dataset.ids.toLowerCase().includes(wanted);
    count += !part.hidden;
  }
  if (rest && wanted !== "") rest.open = true;
  const elsewhere = count ? "" : "; look in groups.csv and pairs.csv, which hold all";
  found.textContent = wanted === "" ? "" : count + " of " + parts.length + " groups and pairs on this page" + elsewhere;
};
field.addEventListener("input", show);
document.addEventListener("keydown", (event) => {
  const typing = document.activeElement === field;
  if (event.key === "/" && !typing) { event.preventDefault(); field.focus(); return; }
  if (event.key === "Escape" && typing) { field.value = ""; show(); field.blur(); return; }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { n: 1, j: 1, p: -1, k: -1 }[event.key];
  if (step === undefined) return;
  const shown = parts.filter((part) => !part.hidden);
  const next = shown[Math.min(Math.max(shown.indexOf(document.activeElement) + step, 0), shown.length - 1)];
  if (next) { if (rest && rest.contains(next)) rest.open = true; next.focus(); next.scrollIntoView({ block: "center" }); }
});
