// Elements with text in them. Text is only ever set as text: nothing here or elsewhere reads markup.

const SVG = "http://www.w3.org/2000/svg";

// Attributes: functions listen to the event of their name, `vars` are CSS variables, null and false are left out.
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name === "vars") for (const [key, each] of Object.entries(value)) made.style.setProperty(`--${key}`, each);
    else if (!absent(value)) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => !absent(child)));
  return made;
}

function absent(value) {
  return value === null || value === undefined || value === false;
}

// The service counts characters as Python does, by code point; JavaScript's strings count UTF-16 units.
export function slicer(text) {
  const characters = Array.from(text);
  return (start, end) => characters.slice(start, end).join("");
}

// Of elements in a row one is reached with Tab, the others with arrow keys, Home and End; `columns` wide, if a grid.
export function arrowKeys(elements, chosen = 0, columns = 0) {
  elements.forEach((element, at) => {
    element.tabIndex = at === chosen ? 0 : -1;
    element.addEventListener("focus", () => elements.forEach((other) => (other.tabIndex = other === element ? 0 : -1)));
    element.addEventListener("keydown", (event) => {
      const down = columns || 1;
      const ends = { Home: -at, End: elements.length - 1 - at };
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -down, ArrowDown: down, ...ends };
      const next = elements[at + steps[event.key]];
      if (next === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      next.focus();
    });
  });
}
