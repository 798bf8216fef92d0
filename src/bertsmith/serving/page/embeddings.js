// The input of the first layer as in the paper's figure 2: three embeddings of every token, and their sum.

import { el } from "./dom.js";
import { card } from "./view.js";
import { number, t } from "./words.js";

export function embeddings({ tokens, segments, positions, lengths }) {
  const longest = Math.max(...Object.values(lengths).flat());
  const segmentName = (segment) => (segment === 0 ? "A" : "B");
  const box = (length, ...inside) => el("span", { class: "box", title: t("inside.length", number(length)) }, inside,
    el("span", { class: "length", "aria-hidden": "true", vars: { share: (length / longest).toFixed(3) } }));
  const row = (name, subscripts, letter = "E") => el("tr", { class: `embedding ${name}` },
    el("th", { scope: "row" }, t(`inside.${name}`)),
    subscripts.map((text, at) => el("td", { class: segments[at] ? "segment-b" : "segment-a" },
      box(lengths[name][at], letter, el("sub", {}, text)))));
  const signs = (sign) => el("tr", { class: "signs", "aria-hidden": "true" },
    el("td"), tokens.map(() => el("td", {}, sign)));
  const input = el("tr", { class: "input" }, el("th", { scope: "row" }, t("inside.input")),
    tokens.map(({ token, id }) => el("td", {}, el("span", { class: "box", title: t("inside.id", id) }, token))));
  const names = tokens.map(({ token }) => token);
  const unknown = names.filter((name) => name === "[UNK]").length;
  return card(t("inside.embeddings"),
    el("p", { class: "summary" }, t("inside.embeddings.about", tokens.length)),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("inside.embeddings") },
      el("table", { class: "figure2" }, el("tbody", {}, input,
        row("token", names), signs("+"), row("segment", segments.map(segmentName)), signs("+"),
        row("position", positions), signs("="), row("sum", positions, "x")))),
    unknown > names.length / 4 && el("p", { class: "warning" }, t("inside.unknown", unknown, names.length)),
    el("p", { class: "note" }, t("inside.embeddings.note")));
}
