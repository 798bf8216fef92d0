// The page: which views the served models allow, which of them is open, in which language and light.

import { choose } from "./choose.js";
import { el } from "./dom.js";
import { fill, next } from "./fill.js";
import { inside } from "./inside.js";
import { classify, multilabel, regress } from "./labels.js";
import { applyTheme, chooseLanguage, chooseTheme, isDark, language } from "./preferences.js";
import { qa } from "./qa.js";
import { ask, useKey } from "./service.js";
import { similarity } from "./similarity.js";
import { tag } from "./tag.js";
import { buildView } from "./view.js";
import { loadWords, t } from "./words.js";

const VIEWS = [classify, multilabel, regress, tag, qa, choose, fill, next, similarity, inside];
const LANGUAGES = { en: "English", ko: "한국어" };

const states = new Map();
let models = [];
let open = null;

function draw(focus) {
  open?.stop();
  open = null;
  document.documentElement.lang = language();
  const able = VIEWS.filter((view) => models.some(view.suits));
  const view = able.find(({ id }) => location.hash === `#${id}`) ?? able[0];
  const main = el("main", { id: "main", tabindex: "-1" });
  document.body.replaceChildren(
    el("a", { class: "skip", href: "#main", click: (event) => {
      event.preventDefault();
      main.focus();
    } }, t("skip")),
    header(), el("div", { class: "frame" }, navigation(able, view), main));
  if (view) {
    document.title = `${t(`${view.id}.name`)} · Bertsmith`;
    if (!states.has(view.id)) states.set(view.id, {});
    open = buildView(view, models.filter(view.suits), states.get(view.id), draw);
    main.append(open.element);
    document.querySelector("nav [aria-current]").scrollIntoView({ block: "nearest", inline: "center" });
  } else {
    main.append(el("section", { class: "view" }, el("p", { class: "lead" }, t("no_models"))));
  }
  if (focus) document.querySelector(focus)?.focus();
}

function header() {
  return el("header", {},
    el("a", { class: "brand", href: "#" },
      el("img", { src: "page/mark.svg", alt: "", width: 32, height: 32 }), "Bertsmith"),
    el("div", { class: "switches" },
      el("div", { class: "segments", role: "group", "aria-label": t("language") },
        Object.entries(LANGUAGES).map(([code, name]) => el("button", {
          type: "button", lang: code, id: `language-${code}`, "aria-pressed": String(code === language()),
          click: () => {
            chooseLanguage(code);
            for (const state of states.values()) {
              if (state.example) Object.assign(state, { example: undefined, answered: null });
            }
            start(`#language-${code}`);
          },
        }, name))),
      themeSwitch()));
}

function themeSwitch() {
  const button = el("button", { type: "button", class: "theme", id: "theme", click: () => {
    chooseTheme(isDark() ? "light" : "dark");
    name();
  } });
  const name = () => {
    button.textContent = isDark() ? "☀" : "☾";
    button.setAttribute("aria-label", t(isDark() ? "theme.light" : "theme.dark"));
    button.title = button.getAttribute("aria-label");
  };
  name();
  return button;
}

function navigation(able, view) {
  return el("nav", { "aria-label": t("views") }, el("ul", {}, able.map(({ id }) =>
    el("li", {}, el("a", { href: `#${id}`, "aria-current": id === view.id ? "page" : null }, t(`${id}.name`))))));
}

// What is wrong before anything can be shown; a service that wants a key is asked again with it.
function trouble(error, focus) {
  document.documentElement.lang = language();
  const wantsKey = error.status === 401;
  const key = el("input", { id: "key", type: "password", autocomplete: "off" });
  const enter = el("form", { class: "card", submit: (event) => {
    event.preventDefault();
    useKey(key.value.trim());
    start("#key");
  } },
  el("p", { class: "error", role: "alert" }, error.message),
  wantsKey && el("div", { class: "field" }, el("label", { for: "key" }, t("key")), key),
  el("div", { class: "actions" },
    el("button", { type: "submit", class: "primary" }, wantsKey ? t("key.use") : t("again"))));
  document.body.replaceChildren(header(), el("div", { class: "frame" }, el("main", { id: "main" }, enter)));
  if (focus) document.querySelector(focus)?.focus();
}

async function start(focus) {
  try {
    // Where any model will do, one that was not tuned for something else comes first.
    if (models.length === 0) models = (await ask("v1/models")).data.sort((a, b) => Boolean(a.task) - Boolean(b.task));
  } catch (error) {
    if (!("status" in error)) throw error;
    return trouble(error, focus);
  }
  draw(focus);
}

applyTheme();
await loadWords();
addEventListener("hashchange", () => {
  draw();
  document.querySelector("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  document.getElementById("theme")?.replaceWith(themeSwitch());
});
await start();
