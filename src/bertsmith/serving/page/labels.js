// What a text or a pair of texts is: one label, any number of labels, or a number.

import { bars, ranked } from "./bars.js";
import { el } from "./dom.js";
import { card, cutNote, predict } from "./view.js";
import { number, percent, t } from "./words.js";

const ONE = {
  en: { text: "The first hour is slow, but the ending is worth every minute of it." },
  ko: { text: "초반은 지루했지만 마지막 30분이 모든 것을 용서하게 만든다." },
};
const SEVERAL = {
  en: { text: "The room was clean and quiet, but breakfast cost extra and the lift was out of order." },
  ko: { text: "방은 깨끗하고 조용했는데, 조식은 따로 내야 했고 엘리베이터는 고장이었어요." },
};
const PAIR = {
  en: { text: "Can I have my order sent to another address?", text_b: "I would like to change where the parcel goes." },
  ko: { text: "주문한 물건을 다른 주소로 받을 수 있나요?", text_b: "배송지를 바꾸고 싶어요." },
};

function labelView(id, single, show) {
  return {
    id,
    suits: (model) => model.task === id && model.abilities.includes("predict"),
    fields: (model) => model.pairs
      ? [{ name: "text", label: "text.first", lines: 2 }, { name: "text_b", label: "text.second", lines: 2 }]
      : [{ name: "text", label: "text", lines: 3 }],
    examples: (model) => (model.pairs ? PAIR : single),
    request: ({ text, text_b: second }, model) => predict(model, model.pairs ? [text, second] : text),
    show: ({ predictions: [found] }) => [card(null, show(found), cutNote(found))],
  };
}

export const classify = labelView("classify", ONE, ({ label, score, scores }) => [
  el("p", { class: "summary" }, el("strong", {}, label), ` ${percent(score)}`),
  bars(ranked(scores).map((row) => ({ ...row, chosen: row.name === label })), { label: t("classify.title") }),
]);

export const multilabel = labelView("multilabel", SEVERAL, ({ labels, scores }) => {
  const rows = ranked(scores).map((row) => ({ ...row, chosen: labels.includes(row.name) }));
  const given = rows.filter(({ chosen }) => chosen)
    .flatMap(({ name }) => [el("strong", { class: "tag-name" }, name), " "]);
  return [
    el("p", { class: "summary" }, given.length ? given : t("multilabel.none")),
    bars(rows, { label: t("multilabel.title"), threshold: 0.5 }),
    el("p", { class: "note" }, t("multilabel.note")),
  ];
});

export const regress = labelView("regress", ONE, ({ value }) => [
  el("p", { class: "summary big-number" }, number(value)),
  el("p", { class: "note" }, t("regress.note")),
]);
