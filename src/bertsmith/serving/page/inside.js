// Inside BERT: figure 2's embeddings of a text, what each head attends to, and what pre-training would mask.

import { attention } from "./attention.js";
import { embeddings } from "./embeddings.js";
import { masking } from "./masking.js";
import { modelPath } from "./view.js";
import { t } from "./words.js";

export const inside = {
  id: "inside",
  suits: (model) => model.abilities.includes("inside"),
  fields: () => [
    { name: "text", label: "inside.a", lines: 2 },
    { name: "text_b", label: "inside.b", lines: 2, optional: true },
  ],
  examples: () => ({
    en: { text: "The river rose in the night.", text_b: "Nobody in the valley slept." },
    ko: { text: "밤사이 강물이 크게 불었다.", text_b: "골짜기에서는 아무도 잠들지 못했다." },
  }),
  check: ({ text_b: second }) => (second && !second.trim() ? [t("error.empty"), "text_b"] : null),
  request: (values, model) => insideRequest(values, model, 1),
  show: (answer, values, model) => [
    embeddings(answer),
    attention(answer, model, (layer) => insideRequest(values, model, layer)),
    model.abilities.includes("masking") && masking((seed) => [modelPath(model, "masking"), { ...texts(values), seed }]),
  ].filter(Boolean),
};

// One layer at a time: all of a large model would be megabytes.
function insideRequest(values, model, layer) {
  return [modelPath(model, "inside"), { ...texts(values), layers: [layer] }];
}

function texts({ text, text_b: second }) {
  return { text, text_b: second || null };
}
