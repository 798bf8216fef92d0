// Which of several endings goes on best.

import { bars } from "./bars.js";
import { el } from "./dom.js";
import { card, cutNote, predict } from "./view.js";
import { t } from "./words.js";

export const choose = {
  id: "choose",
  suits: (model) => model.task === "choose" && model.abilities.includes("predict"),
  fields: () => [
    { name: "context", label: "choose.context", lines: 2 },
    { name: "endings", label: "choose.endings", lines: 5 },
  ],
  examples: (model) => ({
    en: { context: "Mina poured the batter into the tin.", endings: some(model, [
      "Then she put it into the oven.", "Then she read it to the children.", "Then she parked it in the yard.",
      "Then she sold her shares in it.",
    ]) },
    ko: { context: "민아는 반죽을 틀에 부었다.", endings: some(model, [
      "그리고 오븐에 넣었다.", "그리고 아이들에게 읽어 주었다.", "그리고 마당에 세워 두었다.", "그리고 버스에 태워 보냈다.",
    ]) },
  }),
  check: ({ endings }) => (lines(endings).length < 2 ? [t("choose.two"), "endings"] : null),
  request: ({ context, endings }, model) => predict(model, { context, endings: lines(endings) }),
  show({ predictions: [found] }) {
    const row = (name, place) => ({ name, share: found.scores[place], chosen: place === found.choice });
    return [card(null,
      el("p", { class: "summary" }, `${found.context} `, el("strong", {}, found.ending)),
      bars(found.endings.map(row), { label: t("choose.endings") }), cutNote(found))];
  },
};

// A model that was tuned with a number of endings takes that number.
function some(model, endings) {
  return endings.slice(0, model.choices ?? endings.length).join("\n");
}

function lines(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}
