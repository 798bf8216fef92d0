// Fill in the blank: the likeliest tokens for every [MASK].

import { bars } from "./bars.js";
import { el } from "./dom.js";
import { card, modelPath } from "./view.js";
import { percent, t } from "./words.js";

const MASK = "[MASK]";

export const fill = {
  id: "fill",
  suits: (model) => model.abilities.includes("fill"),
  fields: () => [{ name: "text", label: "fill.text", lines: 2, tool: maskButton }],
  examples: () => ({
    en: { text: "The river rose in the night, and the old [MASK] was carried away to the [MASK]." },
    ko: { text: "비가 많이 와서 [MASK]을 쓰고 학교에 갔다." },
  }),
  check: ({ text }) => (text.includes(MASK) ? null : [t("fill.no_mask"), "text"]),
  request: ({ text }, model) => [modelPath(model, "fill"), { text, top_k: 8 }],
  show({ blanks }, { text }) {
    const picked = blanks.map(() => 0);
    const sentence = el("p", { class: "summary filled" });
    const lists = blanks.map(() => el("div"));
    const draw = () => {
      sentence.replaceChildren(...filledIn(text, blanks.map((blank, at) => blank[picked[at]].token)));
      blanks.forEach((blank, at) => {
        const rows = blank.map(({ token: name, probability: share }, place) =>
          ({ name, share, chosen: place === picked[at] }));
        const title = blanks.length > 1 ? t("fill.blank", at + 1) : null;
        const had = lists[at].contains(document.activeElement);
        lists[at].replaceChildren(...[title && el("h3", {}, title), bars(rows, {
          label: title ?? t("fill.title"),
          onPick: (place) => {
            picked[at] = place;
            draw();
          },
        })].filter(Boolean));
        if (had) lists[at].querySelector(".chosen").focus();
      });
    };
    draw();
    return [card(null, sentence, el("div", { class: "columns" }, lists), el("p", { class: "note" }, t("fill.note")))];
  },
};

function maskButton(input) {
  return el("button", { type: "button", class: "chip", click: () => {
    input.setRangeText(MASK, input.selectionStart, input.selectionEnd, "end");
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.focus();
  } }, t("fill.insert"));
}

// The text with tokens in its blanks; a piece of a word (##ing) joins what stands before it.
function filledIn(text, tokens) {
  const parts = text.split(MASK);
  return parts.flatMap((part, at) => {
    if (at === parts.length - 1) return [part];
    const piece = (tokens[at] ?? MASK).startsWith("##");
    const word = piece ? tokens[at].slice(2) : (tokens[at] ?? MASK);
    return [piece ? part.trimEnd() : part, el("mark", { class: "blank" }, word)];
  });
}

export const next = {
  id: "next",
  suits: (model) => model.abilities.includes("next"),
  fields: () => [
    { name: "a", label: "next.a", lines: 2 },
    { name: "b", label: "next.b", lines: 2 },
  ],
  examples: () => ({
    en: { a: "We missed the last bus home.", b: "So we walked along the river for an hour." },
    ko: { a: "우리는 막차를 놓치고 말았다.", b: "그래서 강을 따라 한 시간을 걸었다." },
  }),
  request: ({ a, b }, model) => [modelPath(model, "next"), { a, b }],
  show({ is_next: share }) {
    const yes = share >= 0.5;
    return [card(null,
      el("p", { class: "summary" }, t(yes ? "next.yes" : "next.no", percent(yes ? share : 1 - share))),
      bars([
        { name: t("next.is"), share, chosen: yes },
        { name: t("next.random"), share: 1 - share, chosen: !yes },
      ], { label: t("next.title") }))];
  },
};
