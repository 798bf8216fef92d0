// Probabilities as bars, longest first.

import { el } from "./dom.js";
import { percent, t } from "./words.js";

const MOST = 12;

// rows: [{name, share, chosen, lang}]; `onPick`, if given, makes every row a button and gets its number.
export function bars(rows, { label, onPick, threshold } = {}) {
  const items = rows.map((row, place) => {
    const inside = [
      el("span", { class: "bar-name", title: row.name }, row.name),
      el("span", { class: "bar-track", "aria-hidden": "true", vars: threshold ? { threshold } : {} },
        el("span", { class: "bar-fill", vars: { share: row.share } })),
      el("span", { class: "bar-share" }, percent(row.share)),
    ];
    const of = { class: `bar${row.chosen ? " chosen" : ""}`, "data-share": row.share };
    if (!onPick) return el("li", {}, el("div", of, inside));
    const pressed = { "aria-pressed": String(Boolean(row.chosen)), click: () => onPick(place) };
    return el("li", {}, el("button", { type: "button", ...of, ...pressed }, inside));
  });
  const list = (some) => el("ul", { class: `bars${threshold ? " with-threshold" : ""}`, "aria-label": label }, some);
  if (items.length <= MOST) return list(items);
  return el("div", {}, list(items.slice(0, MOST)),
    el("details", {}, el("summary", {}, t("more", items.length - MOST)), list(items.slice(MOST))));
}

// Names with their shares as rows, the likeliest first.
export function ranked(scores) {
  return Object.entries(scores).map(([name, share]) => ({ name, share })).sort((a, b) => b.share - a.share);
}
