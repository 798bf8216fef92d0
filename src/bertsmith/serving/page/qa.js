// Questions about a passage: the answer marked in it, and the next best ones.

import { bars } from "./bars.js";
import { el, slicer } from "./dom.js";
import { card, cutNote, predict } from "./view.js";
import { percent, t } from "./words.js";

export const qa = {
  id: "qa",
  suits: (model) => model.task === "qa" && model.abilities.includes("predict"),
  fields: () => [
    { name: "question", label: "qa.question" },
    { name: "context", label: "qa.context", lines: 6 },
  ],
  examples: () => ({
    en: {
      question: "How long did Elin Marsh keep the lighthouse?",
      context: "Elin Marsh kept the lighthouse at Stone Point for thirty-one years. She wrote down the weather every "
        + "morning, rowed to the village once a week for bread and letters, and left the lamp dark only once: in the "
        + "winter of 1887, when the oil froze. Her notebooks are now in the library of the port.",
    },
    ko: {
      question: "박지성이 뛴 EPL 클럽은?",
      context: "박지성은 수원에서 자란 축구 선수이다. 일본 교토에서 프로 생활을 시작했고, 네덜란드의 PSV 에인트호번을 거쳐 "
        + "2005년에 잉글랜드 프리미어리그(EPL)의 맨체스터 유나이티드로 옮겼다. 그곳에서 일곱 시즌을 뛰는 동안 지칠 줄 모르는 "
        + "체력으로 ‘두 개의 심장’이라는 별명을 얻었다.",
    },
  }),
  request: ({ question, context }, model) => predict(model, { question, context }, { n_best: 6 }),
  show({ predictions: [found] }) {
    const part = slicer(found.context);
    const passage = el("p", { class: "passage" });
    const list = el("div");
    const summary = el("p", { class: "summary" }, found.impossible
      ? [el("strong", {}, t("qa.none")), ` ${percent(found.score)}`]
      : [el("strong", {}, found.text), ` ${percent(found.score)}`]);
    const draw = (chosen) => {
      const { start, end } = found.n_best[chosen] ?? { start: 0, end: 0 };
      const marked = end > start ? [el("mark", { class: "answer" }, part(start, end))] : [];
      passage.replaceChildren(part(0, start), ...marked, part(end));
      const rows = found.n_best.map(({ text, score: share }, place) =>
        ({ name: text || t("qa.none"), share, chosen: place === chosen }));
      const had = list.contains(document.activeElement);
      list.replaceChildren(bars(rows, { label: t("qa.best"), onPick: draw }));
      if (had) list.querySelector(".chosen").focus();
    };
    draw(found.n_best.findIndex(({ text, start }) => text === found.text && start === found.start));
    return [
      card(null, summary, passage),
      card(t("qa.best"), list, el("p", { class: "note" }, t("qa.note")),
        !found.impossible && found.n_best[0]?.text === "" && el("p", { class: "note" }, t("qa.threshold")), cutNote(found)),
    ];
  },
};
