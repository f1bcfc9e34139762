"use strict";
const main = document.querySelector("main"), served = main.dataset.served === "true";
const pairs = [...document.querySelectorAll(".pair")], buttons = [...document.querySelectorAll("[data-key]")];
const counter = document.getElementById("status"), problem = document.getElementById("problem");
const by = document.getElementById("by"), contradictions = document.getElementById("contradictions");
const words = Object.fromEntries(buttons.map((button) => [button.dataset.label, button.dataset.action]));
let at = 0, given = [], conflicts = 0, busy = false;

const stored = "mlim-review " + pairs.map((pair) => pair.dataset.a + " " + pair.dataset.b).join("|");
const labels = () => new Map(given.map((answer) => [answer.pair, answer.label]));

const show = () => {
  const answered = labels(), counts = { 1: 0, 0: 0, unsure: 0 };
  for (const label of answered.values()) counts[label] += 1;
  pairs.forEach((pair, number) => {
    pair.hidden = number !== at;
    const label = answered.get(number);
    pair.querySelector(".answer").textContent = label === undefined ? "not answered" : "answered: " + words[label];
  });
  counter.textContent = "Pair " + (at + 1) + " of " + pairs.length + " · " + answered.size + " answered: "
    + counts[1] + " match, " + counts[0] + " differ, " + counts.unsure + " unsure"
    + (conflicts === 0 ? "" : " · contradictions, see below: " + conflicts)
    + (answered.size === pairs.length ? " · all answered" + (served ? "" : ": save them") : "");
  pairs[at].focus({ preventScroll: true });
};

const say = (sentence) => { problem.hidden = sentence === ""; problem.textContent = sentence; };

const next = () => {
  const answered = labels();
  for (let step = 1; step <= pairs.length; step += 1) {
    const number = (at + step) % pairs.length;
    if (!answered.has(number)) { at = number; return; }
  }
};

const take = (state) => {
  given = Object.entries(state.answers).map(([pair, label]) => ({ pair: Number(pair), label }));
  conflicts = state.contradictions.length;
  contradictions.hidden = conflicts === 0;
  contradictions.querySelector("ul").replaceChildren(...state.contradictions.map((sentence) => {
    const line = document.createElement("li");
    line.textContent = sentence;
    return line;
  }));
  return state;
};

const ask = async (place, body) => {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(place, options), state = await answer.json();
  if (!answer.ok) throw new Error(state.message);
  return take(state);
};

const keep = () => { try { localStorage.setItem(stored, JSON.stringify(given)); } catch { /* kept in memory alone */ } };

const answer = async (label) => {
  const number = at;
  if (served) await ask("answers", { pair: number, label });
  else { given.push({ pair: number, label, at: new Date().toISOString() }); keep(); }
  next();
};

const undo = async () => {
  if (served) { const state = await ask("undo", {}); if (state.pair !== null) at = state.pair; return; }
  const last = given.pop();
  if (last) { at = last.pair; keep(); }
};

const save = () => {
  if (by.value.trim() === "") { by.focus(); throw new Error("enter your name first"); }
  const answers = given.map((one) => ({
    item_a: pairs[one.pair].dataset.a, item_b: pairs[one.pair].dataset.b, label: one.label, at: one.at,
    score: pairs[one.pair].dataset.score,
  }));
  const value = { version: Number(main.dataset.version), by: by.value.trim(), model: main.dataset.model, answers };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  link.download = "answers.json";
  link.click();
};

const act = async (button) => {
  if (busy) return;
  busy = true;
  let failed = "";
  try {
    if (button.dataset.label !== "") await answer(button.dataset.label);
    else if (button.dataset.action === "undo") await undo();
    else if (button.dataset.action === "next") next();
    else save();
  } catch (error) { failed = "Not done: " + error.message; }
  busy = false;
  say(failed);
  if (failed === "") show();
};

const begin = async () => {
  try {
    if (served) await ask("state");
    else given = JSON.parse(localStorage.getItem(stored) || "[]");
  } catch (error) { if (served) say("Not loaded: " + error.message); }
  at = pairs.length - 1;
  next();
  show();
};

if (pairs.length > 0) {
  for (const button of buttons) button.addEventListener("click", () => act(button));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.target === by) { if (event.key === "Enter" || event.key === "Escape") by.blur(); return; }
    const key = event.key === "Backspace" ? "z" : event.key.toLowerCase();
    const button = buttons.find((each) => each.dataset.key === key);
    if (button) { event.preventDefault(); act(button); }
  });
  begin();
}
