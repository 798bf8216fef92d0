// Shows openapi.json for people. Text is only ever set as text, never as markup.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function resolved(schema, api) {
  const name = schema?.$ref?.split("/").pop();
  return name ? api.components.schemas[name] : schema;
}

function kind(schema, api) {
  if (!schema) return "";
  if (schema.$ref) return kind(resolved(schema, api), api);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.anyOf) return schema.anyOf.map((each) => kind(each, api)).filter(Boolean).join(" | ");
  if (schema.type === "array") return `[${kind(schema.items, api) || "any"}]`;
  return schema.type ?? "any";
}

function fields(schema, api) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const usual = field.default === undefined || field.default === null ? "" : ` Default: ${JSON.stringify(field.default)}.`;
    return element(
      "tr",
      {},
      element("td", {}, name + (required.has(name) ? " *" : "")),
      element("td", {}, kind(field, api)),
      element("td", {}, (field.description ?? "") + usual),
    );
  });
  return element("table", {}, element("tbody", {}, ...rows));
}

function sample(schema, api) {
  const found = {};
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const given = field.examples?.[0];
    if (given !== undefined) found[name] = given;
    else if ((schema.required ?? []).includes(name)) found[name] = name === "model" ? "NAME" : "...";
  }
  return found;
}

function curl(method, path, body) {
  const address = `${location.origin}${path.replace("{name}", "NAME")}`;
  if (method === "get") return `curl ${address}`;
  const data = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl ${address} -H 'Content-Type: application/json' -d '${data}'`;
}

function operation(path, method, spec, api) {
  const summary = element(
    "summary",
    {},
    element("span", { class: "method" }, method.toUpperCase()),
    element("span", { class: "path" }, path),
    element("span", { class: "what" }, spec.summary ?? ""),
  );
  const shown = element("details", {}, summary);
  const body = resolved(spec.requestBody?.content?.["application/json"]?.schema, api);
  if (body) shown.append(element("h3", {}, "Body (* is needed)"), fields(body, api));
  const answer = resolved(spec.responses?.["200"]?.content?.["application/json"]?.schema, api);
  if (answer?.properties) shown.append(element("h3", {}, "Answer"), fields(answer, api));
  shown.append(element("h3", {}, "Example"), element("pre", {}, curl(method, path, body ? sample(body, api) : null)));
  return shown;
}

async function show() {
  const place = document.getElementById("operations");
  try {
    const response = await fetch("openapi.json");
    if (!response.ok) throw new Error(`openapi.json: status ${response.status}`);
    const api = await response.json();
    document.getElementById("about").textContent = api.info.description;
    const groups = new Map();
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, spec] of Object.entries(methods)) {
        const tag = spec.tags?.[0] ?? "other";
        if (!groups.has(tag)) groups.set(tag, []);
        groups.get(tag).push(operation(path, method, spec, api));
      }
    }
    place.replaceChildren(...[...groups].flatMap(([tag, made]) => [element("h2", {}, tag), ...made]));
  } catch (error) {
    place.textContent = `The list could not be read: ${error.message}`;
  }
  place.removeAttribute("aria-busy");
}

show();
