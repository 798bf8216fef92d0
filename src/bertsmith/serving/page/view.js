// One of the page's views: a form, a request, and what came back. It keeps what was typed and answered in `state`.

import { el } from "./dom.js";
import { buildForm } from "./form.js";
import { language } from "./preferences.js";
import { asCurl, ask, latest } from "./service.js";
import { t } from "./words.js";

// view: {id, fields(model), examples(model), request(values, model) -> [path, body], show(answer, values, model)}.
// `check`, if it has one, says in a sentence what is wrong with values, before anything is sent.
export function buildView(view, models, state, rebuild) {
  const model = models.find(({ id }) => id === state.model) ?? models[0];
  const examples = view.examples(model);
  // Until the reader writes something, examples follow the language and the model.
  if (state.example !== null) state.values = examples[(state.example ??= language())];
  const requests = latest();
  const result = el("div", { class: "result" });
  // A reader who listens gets the one sentence of the result, not every number of it.
  const spoken = el("p", { class: "spoken", role: "status" });
  const form = buildForm({
    id: view.id, fields: view.fields(model), examples, models, model, values: state.values, onRun: run, onStop: stop,
    onExample: (example) => {
      state.example = example;
      run();
    },
    onModel: (name) => {
      stop();
      Object.assign(state, { model: name, values: form.values(), answered: null });
      rebuild(`#${view.id}-model`);
    },
  });
  form.element.addEventListener("input", ({ target }) => {
    if (target.name in state.values) Object.assign(state, { example: null, values: form.values() });
  });

  async function run() {
    const values = (state.values = form.values());
    const missing = form.missing();
    const wrong = missing ? [t("error.empty"), missing] : view.check?.(values, model);
    form.clear();
    if (wrong) {
      stop();
      form.fail(...wrong).focus();
      return;
    }
    const [path, body] = view.request(values, model);
    form.busy(true);
    result.setAttribute("aria-busy", "true");
    try {
      const answer = await requests.run((signal) => ask(path, body, signal));
      state.answered = { answer, values, path, body };
      idle();
      show();
    } catch (error) {
      if (error.name === "AbortError") return;
      idle();
      state.answered = null;
      result.replaceChildren();
      form.fail(error.message, error.param);
      if (!("status" in error)) throw error;
    }
  }

  function stop() {
    requests.stop();
    idle();
  }

  function idle() {
    form.busy(false);
    result.removeAttribute("aria-busy");
  }

  function show() {
    const { answer, values, path, body } = state.answered;
    const command = el("details", { class: "command" },
      el("summary", {}, t("command")), el("pre", { tabindex: "0" }, asCurl(path, body)));
    result.replaceChildren(...[view.show(answer, values, model)].flat(), command);
    spoken.textContent = result.querySelector(".summary")?.textContent ?? "";
  }

  if (state.answered) show();
  else if (!form.missing()) run();
  const element = el("section", { class: `view ${view.id}`, "aria-labelledby": `${view.id}-title` },
    el("h1", { id: `${view.id}-title` }, t(`${view.id}.title`)),
    el("p", { class: "lead" }, t(`${view.id}.lead`)),
    form.element, spoken, result);
  return { element, stop };
}

export function card(title, ...children) {
  return el("section", { class: "card" }, title && el("h2", {}, title), children);
}

export function cutNote(prediction) {
  return prediction.truncated > 0 ? el("p", { class: "note" }, t("truncated", prediction.truncated)) : null;
}

export function predict(model, input, options = {}) {
  return [modelPath(model, "predict"), { input, options }];
}

export function modelPath(model, ability) {
  return `v1/models/${encodeURIComponent(model.id)}/${ability}`;
}
