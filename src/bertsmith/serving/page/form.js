// What is asked: fields, examples in both languages, the model, the button. Enter runs it, in a text Ctrl+Enter.

import { el } from "./dom.js";
import { t } from "./words.js";

const NAMES = { en: "English", ko: "한국어" };

// fields: [{name, label, lines, optional, tool}]; onRun takes nothing. A missing text is said beside its field.
export function buildForm({ id, fields, examples, models, model, values, onRun, onStop, onExample, onModel }) {
  const inputs = new Map();
  const errors = new Map();
  const examplesRow = el("div", { class: "examples", role: "group", "aria-label": t("examples") },
    el("span", { "aria-hidden": "true" }, t("examples")),
    Object.entries(examples).map(([language, example]) =>
      el("button", { type: "button", class: "chip", lang: language, "data-example": language, click: () => {
        set(example);
        onExample(language);
      } }, NAMES[language])));
  const rows = fields.map((field, place) => {
    const own = `${id}-${field.name}`;
    const shared = {
      id: own, name: field.name, autocomplete: "off", spellcheck: "false", "aria-describedby": `${own}-error`,
      "aria-required": field.optional ? null : "true",
    };
    const input = field.lines
      ? el("textarea", { ...shared, rows: field.lines, vars: { lines: field.lines } })
      : el("input", { ...shared, type: "text", enterkeyhint: "go" });
    input.value = values[field.name] ?? "";
    input.addEventListener("input", () => clear(field.name));
    const error = el("p", { class: "error", id: `${own}-error`, role: "alert" });
    inputs.set(field.name, input);
    errors.set(field.name, error);
    const label = el("label", { for: own }, t(field.label));
    if (field.optional) label.append(" ", el("span", { class: "optional" }, t("optional")));
    const above = el("div", { class: "label-row" }, label, field.tool?.(input), place === 0 && examplesRow);
    return el("div", { class: "field" }, above, input, error);
  });

  const run = el("button", { type: "submit", class: "primary" }, t("run"));
  const stop = el("button", { type: "button", class: "quiet", hidden: true, click: onStop }, t("stop"));
  const hint = fields.some((field) => field.lines) ? "Ctrl + Enter" : "Enter";
  const elapsed = el("span", { class: "elapsed", role: "status" });
  const form = el("form", { class: "card", novalidate: true, submit: (event) => {
    event.preventDefault();
    onRun();
  } },
  rows,
  el("div", { class: "actions" }, run, stop,
    el("span", { class: "hint", "aria-hidden": "true" }, hint),
    elapsed, modelChoice(id, models, model, onModel)));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      onRun();
    } else if (event.key === "Escape" && !stop.hidden) onStop();
  });

  function set(given) {
    for (const [name, input] of inputs) {
      input.value = given[name] ?? "";
      clear(name);
    }
  }

  function clear(name) {
    inputs.get(name).removeAttribute("aria-invalid");
    errors.get(name).textContent = "";
  }

  // The first field gets what is said of none in particular.
  function fail(sentence, name) {
    const at = inputs.has(name) ? name : fields[0].name;
    inputs.get(at).setAttribute("aria-invalid", "true");
    errors.get(at).textContent = sentence;
    return inputs.get(at);
  }

  let timer = null;
  return {
    element: form,
    values: () => Object.fromEntries([...inputs].map(([name, input]) => [name, input.value])),
    fail,
    // The name of the first field that must not be empty and is.
    missing: () => fields.find((field) => !field.optional && !inputs.get(field.name).value.trim())?.name,
    clear: () => fields.forEach((field) => clear(field.name)),
    busy(working) {
      clearInterval(timer);
      elapsed.textContent = "";
      form.classList.toggle("busy", working);
      stop.hidden = !working;
      if (!working) return;
      const began = performance.now();
      timer = setInterval(() => {
        elapsed.textContent = t("working", Math.round((performance.now() - began) / 1000));
      }, 1000);
    },
  };
}

function modelChoice(id, models, model, onModel) {
  if (models.length < 2) return el("span", { class: "model" }, model.id);
  const choice = el("select", { id: `${id}-model`, change: () => onModel(choice.value) },
    models.map(({ id: name }) => el("option", { value: name, selected: name === model.id }, name)));
  return el("span", { class: "model" }, el("label", { for: `${id}-model` }, t("model")), choice);
}
