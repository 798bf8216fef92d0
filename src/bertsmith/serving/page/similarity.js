// How alike the meanings of lines are: cosines of their vectors as a heat map.

import { arrowKeys, el } from "./dom.js";
import { card } from "./view.js";
import { number, t } from "./words.js";

const MOST = 40;

export const similarity = {
  id: "similarity",
  suits: (model) => model.abilities.includes("embed"),
  fields: () => [{ name: "lines", label: "similarity.lines", lines: 7 }],
  examples: () => ({
    en: { lines: [
      "The cat is asleep on the sofa.", "A kitten naps on the couch.", "The bank has raised its interest rates.",
      "Loans became more expensive this month.", "We had soup and bread for lunch.", "Is it going to rain tomorrow?",
    ].join("\n") },
    ko: { lines: [
      "고양이가 소파에서 자고 있다.", "새끼 고양이가 소파 위에서 낮잠을 잔다.", "은행이 금리를 올렸다.",
      "이번 달부터 대출 이자가 비싸졌다.", "점심으로 빵과 수프를 먹었다.", "내일 비가 올까요?",
    ].join("\n") },
  }),
  check({ lines }) {
    const count = linesOf(lines).length;
    if (count < 2) return [t("similarity.two"), "lines"];
    return count > MOST ? [t("similarity.many", MOST, count), "lines"] : null;
  },
  request: ({ lines }, model) => ["v1/embeddings", { model: model.id, input: linesOf(lines) }],
  show({ data, truncated }, { lines }) {
    const texts = linesOf(lines);
    const vectors = [...data].sort((a, b) => a.index - b.index).map(({ embedding }) => unit(embedding));
    const cosines = vectors.map((a) => vectors.map((b) => a.reduce((sum, value, at) => sum + value * b[at], 0)));
    const pairs = texts.flatMap((_, i) => texts.slice(0, i).map((_, j) => [cosines[i][j], j, i]));
    const shares = pairs.map(([share]) => share);
    const [low, high] = [Math.min(...shares), Math.max(...shares)];
    const [best, first, second] = pairs.reduce((a, b) => (b[0] > a[0] ? b : a));
    const told = el("p", { class: "told", role: "status" });
    const tell = (i, j) => told.replaceChildren(
      el("strong", {}, number(cosines[i][j])), ` ${i + 1} “${texts[i]}” · ${j + 1} “${texts[j]}”`);
    tell(first, second);
    return [card(null,
      el("p", { class: "summary" }, t("similarity.best", number(best), first + 1, second + 1)),
      grid(texts, cosines, low, high, tell), told, legend(low, high),
      truncated > 0 && el("p", { class: "warning" }, t("similarity.cut", truncated)))];
  },
};

// Colours go from the smallest to the largest of what is compared, since some models find everything alike.
function grid(texts, cosines, low, high, tell) {
  const cells = [];
  const rows = texts.map((text, i) => el("tr", {},
    el("th", { scope: "row", title: text }, el("b", {}, i + 1), el("span", { class: "line-text" }, text)),
    cosines[i].map((cosine, j) => {
      const share = i === j ? 1 : Math.min(1, Math.max(0, (cosine - low) / (high - low || 1)));
      const cell = el("td", {
        class: `heat${share > 0.55 ? " strong" : ""}${i === j ? " same" : ""}`, vars: { share: share.toFixed(3) },
        "aria-label": `${i + 1}, ${j + 1}: ${number(cosine)}`, mouseenter: () => tell(i, j), focus: () => tell(i, j),
      }, number(cosine));
      cells.push(cell);
      return cell;
    })));
  arrowKeys(cells, 0, texts.length);
  const head = el("tr", {}, el("td"), texts.map((text, at) => el("th", { scope: "col", title: text }, at + 1)));
  return el("div", { class: "scroll" },
    el("table", { class: "matrix", role: "grid", "aria-label": t("similarity.title") },
      el("thead", {}, head), el("tbody", {}, rows)));
}

function legend(low, high) {
  const steps = [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => el("i", { vars: { share } }));
  return el("p", { class: "legend", "aria-hidden": "true" },
    number(low), el("span", { class: "ramp" }, steps), number(high));
}

function linesOf(text) {
  return text.split("\n").map((line) => line.trim()).filter(Boolean);
}

function unit(vector) {
  const length = Math.hypot(...vector) || 1;
  return vector.map((value) => value / length);
}
