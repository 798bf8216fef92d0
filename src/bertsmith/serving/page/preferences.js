// Language and light or dark: what the reader chose here before, else what the browser says.

const LANGUAGES = ["en", "ko"];

export function language() {
  const wish = stored("language");
  if (LANGUAGES.includes(wish)) return wish;
  for (const tag of navigator.languages ?? [navigator.language]) {
    const found = tag.toLowerCase().split("-")[0];
    if (LANGUAGES.includes(found)) return found;
  }
  return "en";
}

export function chooseLanguage(wish) {
  store("language", wish);
}

export function isDark() {
  const wish = stored("theme");
  return wish ? wish === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function chooseTheme(wish) {
  store("theme", wish);
  applyTheme();
}

export function applyTheme() {
  const wish = stored("theme");
  if (wish) document.documentElement.dataset.theme = wish;
}

// A browser may refuse storage; then a choice lasts as long as the page.
const here = new Map();

function stored(name) {
  try {
    return here.get(name) ?? localStorage.getItem(`bertsmith.${name}`);
  } catch {
    return here.get(name) ?? null;
  }
}

function store(name, value) {
  here.set(name, value);
  try {
    localStorage.setItem(`bertsmith.${name}`, value);
  } catch {
    return;
  }
}
