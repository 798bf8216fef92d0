// Attention of one layer: a small picture of every head, and for the chosen one lines from each token to what it sees.

import { arrowKeys, el, svg } from "./dom.js";
import { ask, latest } from "./service.js";
import { card } from "./view.js";
import { percent, t } from "./words.js";

const FAINTEST = 0.02;
const INK = [42, 127, 134];

// request(layer) gives [path, body] of another layer.
export function attention({ tokens, layers, attention: maps }, model, request) {
  const names = tokens.map(({ token }) => token);
  const requests = latest();
  const shown = { heads: withMean(maps[0]), head: 0, hovered: null, focused: null };

  const size = { viewBox: `0 0 100 ${names.length}`, preserveAspectRatio: "none" };
  const lines = svg("svg", { class: "lines", ...size, "aria-hidden": "true" });
  const told = el("p", { class: "told", role: "status" });
  const error = el("p", { class: "error", role: "alert" });
  const seen = names.map((name) => el("li", {}, el("span", {}, name), el("small")));
  const looking = names.map((name, at) => el("li", {
    role: "option", "aria-selected": "false",
    mouseenter: () => look({ hovered: at }), mouseleave: () => look({ hovered: null }),
    focus: () => look({ focused: at }), blur: () => look({ focused: null }),
  }, name));
  arrowKeys(looking);
  const heads = el("div", { class: "heads", role: "radiogroup", "aria-label": t("attention.head") });

  function look(change) {
    Object.assign(shown, change);
    const at = shown.hovered ?? shown.focused;
    const map = shown.heads[shown.head];
    // Of one token the strongest line is dark, however weak it is among all.
    const [from, darkest] = at === null ? [[...map.keys()], 1] : [[at], Math.max(...map[at])];
    lines.replaceChildren(...from.flatMap((i) => map[i].flatMap((share, j) => share < FAINTEST ? [] : svg("line", {
      x1: 0, y1: i + 0.5, x2: 100, y2: j + 0.5, "stroke-opacity": (0.08 + (0.92 * share) / darkest).toFixed(3),
    }))));
    looking.forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
    seen.forEach((item, j) => {
      const share = at === null ? 0 : map[at][j];
      item.style.setProperty("--share", share.toFixed(3));
      item.lastChild.textContent = at !== null && share >= 0.005 ? percent(share) : "";
    });
    told.textContent = at === null ? t("attention.hint") : t("attention.most", names[at], strongest(map[at], names));
  }

  function chooseHead(head) {
    [...heads.children].forEach((button, at) => button.setAttribute("aria-checked", String(at === head)));
    look({ head });
  }

  function drawHeads() {
    heads.replaceChildren(...shown.heads.map((map, at) => {
      const name = at === shown.heads.length - 1 ? t("attention.mean") : String(at + 1);
      return el("button", {
        type: "button", role: "radio", class: "head", "aria-checked": "false",
        "aria-label": `${t("attention.head")} ${name}`,
        click: () => chooseHead(at), focus: () => chooseHead(at),
      }, picture(map), el("span", { "aria-hidden": "true" }, name));
    }));
    arrowKeys([...heads.children], shown.head);
    chooseHead(shown.head);
  }

  async function chooseLayer(layer) {
    [...layerButtons.children].forEach((button, at) => button.setAttribute("aria-checked", String(at + 1 === layer)));
    heads.setAttribute("aria-busy", "true");
    try {
      const answer = await requests.run((signal) => ask(...request(layer), signal));
      shown.heads = withMean(answer.attention[0]);
      error.textContent = "";
      drawHeads();
    } catch (problem) {
      if (problem.name === "AbortError") return;
      error.textContent = problem.message;
      if (!("status" in problem)) throw problem;
    }
    heads.removeAttribute("aria-busy");
  }

  const layerButtons = el("div", { class: "segments", role: "radiogroup", "aria-label": t("attention.layer") },
    Array.from({ length: model.layers }, (_, at) => el("button", {
      type: "button", role: "radio", "aria-checked": String(at + 1 === layers[0]),
      "aria-label": `${t("attention.layer")} ${at + 1}`,
      click: () => chooseLayer(at + 1),
      focus: ({ target }) => target.getAttribute("aria-checked") === "false" && chooseLayer(at + 1),
    }, at + 1)));
  arrowKeys([...layerButtons.children], layers[0] - 1);
  drawHeads();
  look({});

  return card(t("attention.title"), el("p", {}, t("attention.about")),
    el("div", { class: "attention" },
      el("div", { class: "which" },
        choice("attention.layer", layerButtons), choice("attention.head", heads), error),
      el("div", { class: "drawing" },
        told,
        el("div", { class: "fan", vars: { count: names.length } },
          el("ul", { class: "from", role: "listbox", "aria-label": t("attention.tokens") }, looking),
          lines,
          el("ul", { class: "to", "aria-hidden": "true" }, seen)))));
}

function choice(name, buttons) {
  return el("div", { class: "choice" }, el("span", { class: "caption", "aria-hidden": "true" }, t(name)), buttons);
}

// Heads (A, T, T), and after them their mean.
function withMean(heads) {
  const of = (i, j) => heads.reduce((sum, map) => sum + map[i][j], 0) / heads.length;
  const mean = heads[0].map((row, i) => row.map((_, j) => of(i, j)));
  return [...heads, mean];
}

function strongest(shares, names) {
  const places = shares.map((share, at) => [share, at]).sort((a, b) => b[0] - a[0]).slice(0, 4);
  return places.filter(([share]) => share >= 0.005).map(([share, at]) => `${names[at]} ${percent(share)}`).join(", ");
}

// (T, T) as an image of T x T points: a row for each token that looks, a column for each that is seen.
function picture(map) {
  const size = map.length;
  const canvas = el("canvas", { width: size, height: size, "aria-hidden": "true" });
  const image = new ImageData(size, size);
  map.flat().forEach((share, at) => image.data.set([...INK, Math.round(255 * Math.sqrt(share))], 4 * at));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}
