// A training instance: which tokens are to be predicted, and what the encoder sees in their place.

import { el } from "./dom.js";
import { ask, latest } from "./service.js";
import { card } from "./view.js";
import { t } from "./words.js";

const KINDS = ["mask", "random", "kept"];

// request(seed) gives [path, body].
export function masking(request) {
  const requests = latest();
  const seed = el("input", { id: "masking-seed", type: "number", min: "0", step: "1", value: "0", change: draw });
  const again = el("button", { type: "button", class: "chip", id: "masking-again", click: () => {
    seed.value = String(Number(seed.value) + 1);
    draw();
  } }, t("masking.again"));
  const text = el("p", { class: "masked" });
  const legend = el("ul", { class: "kinds" });
  const error = el("p", { class: "error", role: "alert" });

  async function draw() {
    const [path, body] = request(Math.max(0, Math.trunc(Number(seed.value))));
    try {
      const { tokens } = await requests.run((signal) => ask(path, body, signal));
      error.textContent = "";
      text.replaceChildren(...tokens.flatMap((token) => [shown(token), " "]));
      legend.replaceChildren(...KINDS.map((kind) => el("li", {},
        el("i", { class: `kind-${kind}`, "aria-hidden": "true" }),
        t(`masking.${kind}`, tokens.filter((token) => token.kind === kind).length))));
    } catch (problem) {
      if (problem.name === "AbortError") return;
      error.textContent = problem.message;
      if (!("status" in problem)) throw problem;
    }
  }

  draw();
  return card(t("masking.title"), el("p", {}, t("masking.about")),
    el("div", { class: "actions" }, again, el("label", { for: "masking-seed" }, t("masking.seed")), seed),
    error, text, legend);
}

function shown({ token, original, chosen, kind }) {
  if (!chosen) return el("span", { class: "token" }, token);
  return el("span", { class: `token chosen kind-${kind}`, title: t("masking.was", original) },
    token, el("small", {}, original));
}
