// Requests to the service. Whatever goes wrong becomes a sentence.

import { language } from "./preferences.js";
import { t } from "./words.js";

export class ServiceError extends Error {
  constructor(sentence, status, param) {
    super(sentence);
    this.status = status;
    this.param = param;
  }
}

// The reader's key, for a service that wants one; forgotten with the page.
let key = "";

export function useKey(given) {
  key = given;
}

// Asks by GET, or by POST if there is a body.
export async function ask(path, body, signal) {
  const headers = { "Accept-Language": language() };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = { method: body === undefined ? "GET" : "POST", headers, signal };
  if (body !== undefined) request.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServiceError(t("error.unreachable"), 0, null);
  }
  if (!answer.ok) throw await failure(answer);
  return answer.json();
}

async function failure(answer) {
  let error = {};
  try {
    error = (await answer.json()).error ?? {};
  } catch (problem) {
    if (problem.name === "AbortError") return problem;
  }
  const said = error.message ?? "";
  const wait = Number(answer.headers.get("Retry-After"));
  const own = {
    401: t("error.key"),
    429: wait ? t("error.busy.wait", wait) : t("error.busy"),
    503: t("error.unready"),
  }[answer.status];
  const sentence = own || asSentence(said) || t("error.status", answer.status);
  return new ServiceError(sentence, answer.status, error.param ?? null);
}

function asSentence(message) {
  return message && message[0].toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".");
}

// One request at a time: a newer one cancels the older, whose promise then fails with AbortError.
export function latest() {
  let running = null;
  return {
    async run(work) {
      running?.abort();
      const own = (running = new AbortController());
      try {
        return await work(own.signal);
      } finally {
        if (running === own) running = null;
      }
    },
    stop() {
      running?.abort();
      running = null;
    },
  };
}

// The same request for a terminal.
export function asCurl(path, body) {
  const address = new URL(path, document.baseURI).href;
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const allowed = key ? ' -H "Authorization: Bearer $BERTSMITH_API_KEY"' : "";
  const headers = `${allowed} -H 'Content-Type: application/json'`;
  return `curl ${quoted(address)}${headers} \\\n  -d ${quoted(JSON.stringify(body))}`;
}
