// What the page says, in the reader's language. words.json has every sentence in both.

import { language } from "./preferences.js";

let words = {};

export async function loadWords() {
  const answer = await fetch("page/words.json");
  if (!answer.ok) throw new Error(`words.json: ${answer.status}`);
  words = await answer.json();
}

// Values stand for {1}, {2}, ...
export function t(key, ...values) {
  return words[key][language()].replace(/\{(\d)\}/g, (_, number) => String(values[number - 1]));
}

export function percent(share) {
  if (share > 0 && share < 0.001) return `<${format(0.001, { style: "percent", maximumFractionDigits: 1 })}`;
  const digits = share < 0.0995 || (share > 0.995 && share < 1) ? 1 : 0;
  return format(share, { style: "percent", maximumFractionDigits: digits });
}

export function number(value, digits = 2) {
  return format(value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function format(value, options) {
  return new Intl.NumberFormat(language(), options).format(value);
}
