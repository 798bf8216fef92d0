// Entities (or tags of words) as coloured spans of the text.

import { el, slicer } from "./dom.js";
import { card, predict } from "./view.js";
import { percent, t } from "./words.js";

const COLOURS = 8;

export const tag = {
  id: "tag",
  suits: (model) => model.task === "tag" && model.abilities.includes("predict"),
  fields: () => [{ name: "text", label: "text", lines: 3 }],
  examples: () => ({
    en: { text: "Ada Lovelace met Charles Babbage in London in 1833." },
    ko: { text: "손기정은 1936년 베를린 올림픽 마라톤에서 금메달을 땄다." },
  }),
  request: ({ text }, model) => predict(model, text),
  show({ predictions: [{ text, spans }] }, _, model) {
    const colours = colourNumbers(spans, model);
    const part = slicer(text);
    const pieces = [];
    let at = 0;
    for (const span of spans) {
      pieces.push(part(at, span.start), marked(part(span.start, span.end), span, colours));
      at = span.end;
    }
    pieces.push(part(at));
    return [
      card(null, el("p", { class: "tagged" }, pieces)),
      spans.length === 0
        ? el("p", { class: "note summary" }, t("tag.none"))
        : card(t("tag.found"),
          el("p", { class: "spoken summary" }, t("tag.summary", spans.length)), table(spans, colours)),
    ];
  },
};

// A label keeps its colour from text to text: its place among the model's labels gives it.
function colourNumbers(spans, model) {
  const known = (model.labels ?? []).map((name) => name.replace(/^[A-Z]-/, "")).filter((name) => name !== "O");
  const names = [...new Set([...known, ...spans.map(({ label }) => label)])];
  return new Map(names.map((name, number) => [name, number % COLOURS]));
}

function marked(text, { label, score }, colours) {
  const units = unitsOf(text);
  return el("mark", {
    class: `entity colour-${colours.get(label)}`, tabindex: "0", title: `${label} ${percent(score)}`,
  },
  units.map((unit, at) => el("span", { class: `unit ${place(at, units.length)}` }, unit)),
  el("span", { class: "entity-label" }, label));
}

function place(at, count) {
  if (count === 1) return "begin end";
  if (at === 0) return "begin";
  return at === count - 1 ? "end" : "middle";
}

// Words, or of a single word without Latin letters its characters: what its begin, middle and end are.
function unitsOf(text) {
  if (/\s/.test(text)) return text.split(/(?<=\s)(?=\S)/);
  return /[\p{Script=Latin}\p{Number}]/u.test(text) ? [text] : Array.from(text);
}

function table(spans, colours) {
  const row = ({ text, label, score }) => el("tr", {},
    el("td", { class: "wide" }, text),
    el("td", {}, el("span", { class: `swatch colour-${colours.get(label)}` }, label)),
    el("td", { class: "numeric" }, percent(score)));
  const column = (name, kind = null) => el("th", { scope: "col", class: kind }, name);
  const head = el("tr", {}, column(t("tag.part")), column(t("tag.label")), column(t("probability"), "numeric"));
  return el("table", { class: "plain" }, el("thead", {}, head),
    el("tbody", {}, spans.map(row)));
}
