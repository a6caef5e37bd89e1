// The console of a key broker. It reads the administration's API and draws it; it changes nothing.
//
// Whatever is shown goes in as text (never as markup): much of it was said by enclaves that were refused. The token is
// kept in sessionStorage: it is sent only by this code, in a header, so that no other page can cause a request with it,
// and it is gone when the tab is closed.

const PERIOD = 2000;
const PAGE = 50;
const SHOWN = 500;
const view = document.getElementById("view");
const signIn = document.getElementById("sign-in");

// --- drawing ---

/** An element: `make("p", {class: "quiet"}, "text", child, ...)`. Children that are false or null are left out. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

function svg(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const pill = (text, kind = "") => make("span", { class: `pill ${kind} ${text.length > 24 ? "long" : ""}` }, text);
const panel = (title, ...children) => make("section", { class: "panel" }, make("h2", {}, title), ...children);
const quiet = (text) => make("span", { class: "quiet small" }, text);
const mono = (text) => make("span", { class: "mono" }, text);
const short = (hex, size = 12) => (hex && hex.length > size ? `${hex.slice(0, size)}…` : hex || "–");
const inText = (text) => text.replace(/[0-9a-f]{32,}/g, (hex) => short(hex));
const clock = (text) => {
  const moment = new Date(text);
  const time = moment.toLocaleTimeString([], { hour12: false });
  const today = moment.toDateString() === new Date().toDateString();
  return today ? time : `${moment.toLocaleDateString([], { month: "short", day: "numeric" })} ${time}`;
};
const date = (text) => new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "medium", hour12: false });
const plural = (number, one, many = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

function span(seconds) {
  const size = Math.abs(seconds);
  if (size < 90) return plural(Math.round(size), "second");
  if (size < 5400) return plural(Math.round(size / 60), "minute");
  if (size < 172800) return plural(Math.round(size / 3600), "hour");
  return plural(Math.round(size / 86400), "day");
}

function until(text) {
  if (!text) return pill("none", "warn");
  const left = (new Date(text) - Date.now()) / 1000;
  if (left < 0) return pill(`expired ${span(left)} ago`, "bad");
  return pill(`in ${span(left)}`, left < 7 * 86400 ? "warn" : "good");
}

function table(heads, rows, empty) {
  if (!rows.length) return make("p", { class: "quiet" }, empty);
  const cells = (row) => row.map((cell, place) => make("td", { "data-label": heads[place] }, make("span", {}, cell)));
  return make(
    "table",
    {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells(row)))),
  );
}

/** Any JSON value as a definition list. */
function fields(value, skip = []) {
  const list = make("dl", { class: "small" });
  for (const [name, item] of Object.entries(value)) {
    if (skip.includes(name) || item == null || (Array.isArray(item) && !item.length)) continue;
    const nested = typeof item === "object" && !Array.isArray(item);
    const plain = Array.isArray(item) ? item.map((x) => (typeof x === "object" ? JSON.stringify(x) : x)).join(", ") : `${item}`;
    list.append(make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, nested ? fields(item) : mono(plain)));
  }
  return list;
}

const TCB = { UpToDate: "good", Revoked: "bad" };
const tcb = (status, simulated) =>
  make("span", {}, pill(status, TCB[status] || "warn"), simulated ? " " : "", simulated && pill("simulated", "warn"));

function decision(record, fresh = false) {
  const granted = record.outcome === "granted";
  const keys = (record.keys || []).map((key) => `${key.name} ${key.version}`).join(", ");
  const told = granted ? `${keys} · ${record.model.name} ${record.model.version}` : record.reason;
  const detail = make("details", { class: fresh ? "new" : null, "data-sequence": record.sequence });
  detail.append(
    make(
      "summary",
      {},
      make("span", { class: "quiet mono", title: record.time }, clock(record.time)),
      pill(granted ? "granted" : "refused", granted ? "good" : "bad"),
      make("strong", { class: "break" }, record.deployment || "–"),
      make("span", { class: "told" }, told, !granted && quiet(` ${inText(record.detail || "")}`)),
      make("span", { class: "from quiet small mono" }, record.peer || ""),
    ),
  );
  // Drawn when it is opened: there can be hundreds.
  detail.addEventListener("toggle", () => {
    if (detail.open && detail.children.length === 1) detail.append(fields(record, ["event", "outcome"]));
  });
  return detail;
}

function chart(minutes) {
  const most = Math.max(...minutes.map((minute) => minute.granted + minute.refused));
  const total = (name) => minutes.reduce((sum, minute) => sum + minute[name], 0);
  const label = `Decisions a minute in the last hour: ${total("granted")} granted, ${total("refused")} refused`;
  const drawing = svg("svg", { class: "chart", viewBox: "0 0 240 60", preserveAspectRatio: "none", role: "img", "aria-label": label });
  drawing.append(svg("line", { class: "ground", x1: 0, x2: 240, y1: 59.7, y2: 59.7 }));
  minutes.forEach((minute, place) => {
    let base = 59.5;
    for (const name of ["granted", "refused"]) {
      const height = (56 * minute[name]) / Math.max(4, most);
      base -= height;
      if (height) drawing.append(svg("rect", { class: name, x: place * 4 + 0.4, y: base, width: 3.2, height }));
    }
  });
  const key = (name) => make("span", {}, make("i", { class: name }), `${total(name).toLocaleString()} ${name}`);
  return make("div", {}, drawing, make("p", { class: "key" }, key("granted"), key("refused"), make("span", {}, `at most ${most.toLocaleString()} a minute`)));
}

// --- asking ---

class Refused extends Error {
  constructor(status, told) {
    super(told.detail || `status ${status}`);
    this.status = status;
    this.hint = told.hint || "";
  }
}

async function get(path) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(15000) });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok && !(path === "/readyz" && answer.status === 503)) throw new Refused(answer.status, told);
  return told;
}

// --- views: each gives a function that draws anew, called again and again while the view is open ---

async function overview() {
  const [ready, fleet, status] = await Promise.all([get("/readyz"), get("/v1/fleet"), get("/v1/status")]);
  const latest = await get("/v1/audit?event=decision&limit=8");
  const current = fleet.items.filter((item) => item.current);
  const byStatus = Map.groupBy ? Map.groupBy(current, (item) => item.tcb_status) : group(current);
  const tile = (number, text) => make("div", { class: "tile" }, make("strong", {}, number), quiet(text));
  const checks = Object.entries(ready.checks).map(([name, found]) =>
    make("div", { class: "row" }, make("span", {}, { store: "Store", audit: "Audit log", collateral: "Collateral" }[name] || name), pill(found, found === "ok" ? "good" : "bad")),
  );
  const statuses = [...byStatus].sort().map(([name, items]) =>
    make(
      "div",
      {},
      make("div", { class: "row first" }, tcb(name, items.some((item) => item.simulated)), make("span", {}, plural(items.length, "enclave"))),
      svg("svg", { class: "share", viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "all", width: 100, height: 1 }), svg("rect", { class: TCB[name] || "warn", width: (100 * items.length) / current.length, height: 1 })),
    ),
  );
  const collateral = fleet.collateral.map((item) =>
    make("div", { class: "row" }, make("span", { class: "break" }, item.policy, " ", make("span", { class: "quiet mono", title: item.platform }, item.platform.split("/").pop())), until(item.expires)),
  );
  const enclaves = fleet.items.slice(0, 100).map((item) => [
    make("strong", {}, item.deployment),
    tcb(item.tcb_status, item.simulated),
    make("span", { class: "mono", title: item.mrenclave || item.mrtd }, short(item.mrenclave || item.mrtd)),
    item.keys.map((key) => `${key.name} ${key.version}`).join(", "),
    mono(item.peer),
    make("span", { title: item.last_seen }, item.current ? clock(item.last_seen) : pill(`not since ${clock(item.last_seen)}`)),
  ]);
  return [
    make(
      "div",
      { class: "tiles" },
      tile(current.length, "enclaves hold keys"),
      tile(fleet.minutes.reduce((sum, { granted, refused }) => sum + granted + refused, 0).toLocaleString(), "decisions in an hour"),
      tile(status.counts.grants, "grants"),
      tile(status.counts.key_versions, "key versions"),
      tile(status.revision, "store revision"),
      tile(status.audit.records.toLocaleString(), "audit records"),
    ),
    panel("Decisions, last hour", chart(fleet.minutes)),
    make(
      "div",
      { class: "columns" },
      panel("Health", make("div", { class: "list" }, ...checks)),
      panel("Fleet by TCB status", ...(statuses.length ? statuses : [make("p", { class: "quiet" }, "No enclave holds a key now.")])),
      panel(
        "Collateral expires",
        ...(collateral.length ? [make("div", { class: "list" }, ...collateral)] : [make("p", { class: "quiet" }, "No policy holds collateral yet.")]),
      ),
    ),
    panel("Enclaves", table(["Deployment", "TCB", "Measurement", "Keys", "From", "Last asked"], enclaves, "No enclave got a key yet.")),
    make(
      "section",
      { class: "panel" },
      make("div", { class: "head" }, make("h2", {}, "Latest decisions"), make("a", { href: "#decisions" }, "all")),
      list(latest.items, "Nobody asked yet."),
    ),
  ];
}

function group(items) {
  const found = new Map();
  for (const item of items) found.set(item.tcb_status, [...(found.get(item.tcb_status) || []), item]);
  return found;
}

const list = (records, empty) =>
  records.length
    ? make("div", { class: "list" }, ...records.map((record) => decision(record)))
    : make("p", { class: "quiet" }, empty);

/** Decisions as they happen: drawn once, then added to. */
function decisions() {
  const outcome = make("select", { id: "outcome" }, ...["all", "granted", "refused"].map((name) => make("option", { value: name === "all" ? "" : name }, name)));
  const deployment = make("input", { id: "deployment", placeholder: "any", maxlength: 64, size: 14 });
  const found = make("div", { class: "list", "aria-live": "off" });
  const older = make("button", { type: "button" }, "Older");
  const empty = make("p", { class: "quiet" }, "No such decision.");
  let newest = null;
  let next = null;
  let turn = 0; // what was asked for before a filter was changed is not drawn after it
  const query = () => `/v1/audit?event=decision${outcome.value && `&outcome=${outcome.value}`}${deployment.value && `&deployment=${encodeURIComponent(deployment.value)}`}`;
  const draw = (records, place) => {
    found[place](...records);
    while (place === "prepend" && found.children.length > SHOWN) found.lastElementChild.remove();
    empty.hidden = found.children.length > 0;
    older.hidden = next === null;
  };
  const restart = () => {
    newest = null;
    refresh();
  };
  outcome.addEventListener("change", restart);
  deployment.addEventListener("change", restart);
  older.addEventListener("click", async () => {
    const page = await get(`${query()}&limit=${PAGE}&before=${next}`);
    next = page.next;
    draw(page.items.map((record) => decision(record)), "append");
  });
  const section = panel(
    "Decisions",
    make("div", { class: "filters" }, make("label", {}, "Outcome", outcome), make("label", {}, "Deployment", deployment)),
    found,
    empty,
    older,
  );
  return async () => {
    const mine = ++turn;
    if (newest === null) {
      const head = await get("/v1/audit/head");
      const page = await get(`${query()}&limit=${PAGE}&before=${head.records + 1}`);
      if (mine !== turn) return [section];
      newest = head.records;
      next = page.next;
      found.replaceChildren();
      draw(page.items.map((record) => decision(record)), "append");
    } else {
      const page = await get(`${query()}&limit=200&after=${newest}`);
      if (mine !== turn) return [section];
      newest = page.next;
      draw(page.items.reverse().map((record) => decision(record, true)), "prepend");
    }
    return [section];
  };
}

async function keys() {
  const [versions, grants] = await Promise.all([get("/v1/keys"), get("/v1/grants")]);
  const kinds = { active: "good", retiring: "warn", retired: "bad", destroyed: "" };
  const users = (key) =>
    grants.items.flatMap((grant) => [
      ...(grant.keys[key.name] === key.version ? [grant.deployment] : []),
      ...(grant.previous?.model.key === key.name && grant.previous.key_version === key.version ? [`${grant.deployment} (before)`] : []),
    ]);
  const rows = versions.items.map((key) => [
    make("strong", {}, key.name),
    `${key.version}`,
    pill(key.state, kinds[key.state]),
    date(key.created),
    key.destroyed ? `destroyed ${date(key.destroyed)}` : key.retires ? date(key.retires) : "–",
    users(key).join(", ") || "–",
  ]);
  return [panel("Keys", table(["Key", "Version", "State", "Made", "Ends", "Granted to"], rows, "There are no keys."))];
}

async function policies() {
  const [found, grants] = await Promise.all([get("/v1/policies"), get("/v1/grants")]);
  return found.items.map((policy) => {
    const users = grants.items.filter((grant) => grant.policy === policy.name).map((grant) => grant.deployment);
    const unsafe = [...policy.text.matchAll(/^\s*(insecure_\w+):/gm)].map((match) => match[1]);
    return make(
      "section",
      { class: "panel" },
      make("div", { class: "head" }, make("h2", {}, policy.name), quiet(`revision ${policy.revision} · ${users.length ? `for ${users.join(", ")}` : "no grant names it"}`)),
      unsafe.length > 0 && make("p", {}, ...unsafe.flatMap((name) => [pill(name, "bad"), " "])),
      make("pre", { tabindex: 0 }, policy.text.trimEnd()),
      make("p", { class: "quiet small" }, policy.trust_root ? "With a trust root of its own." : "Under Intel's root."),
    );
  });
}

async function grants() {
  const found = await get("/v1/grants");
  if (!found.items.length) return [panel("Grants", make("p", { class: "quiet" }, "There are no grants."))];
  return found.items.map((grant) =>
    make(
      "section",
      { class: "panel" },
      make("div", { class: "head" }, make("h2", {}, grant.deployment), quiet(`revision ${grant.revision}`)),
      fields(grant, ["deployment", "revision"]),
    ),
  );
}

/** The chain's state, its verification at a button, and who changed what. */
function audit() {
  const result = make("p", { class: "break", role: "status" });
  const verify = make("button", { type: "button" }, "Verify the whole log");
  const head = make("dl", {});
  const changes = make("div", {});
  verify.addEventListener("click", async () => {
    verify.disabled = true;
    result.replaceChildren("verifying…");
    try {
      const found = await get("/v1/audit/verify");
      result.replaceChildren(pill("whole", "good"), ` ${plural(found.records, "record")}, ${plural(found.checkpoints, "signed checkpoint")}; the last one covers ${found.signed}.`);
    } catch (error) {
      result.replaceChildren(pill("not whole", "bad"), ` ${error.message}`);
    }
    verify.disabled = false;
  });
  const sections = [
    panel("The audit log's end", head, make("p", {}, " "), verify, result, make("p", { class: "quiet small" }, "Keep the hash elsewhere: with it, nobody can cut the log unnoticed. sealserve broker audit export writes all of it.")),
    panel("Changes", changes),
  ];
  return async () => {
    const [end, found] = await Promise.all([get("/v1/audit/head"), get("/v1/audit?event=change&limit=50")]);
    head.replaceChildren(make("dt", {}, "records"), make("dd", {}, end.records.toLocaleString()), make("dt", {}, "last hash"), make("dd", {}, mono(end.head)));
    const rows = found.items.map((record) => [
      date(record.time),
      make("strong", {}, record.action),
      [record.key && `${record.key} ${record.version}`, record.policy, record.deployment, record.token && `token ${record.name} (${record.role || "revoked"})`].filter(Boolean).join(", ") || "–",
      record.actor,
    ]);
    changes.replaceChildren(table(["When", "What", "Of", "By"], rows, "Nothing was changed yet."));
    return sections;
  };
}

const VIEWS = { overview: () => overview, decisions, keys: () => keys, policies: () => policies, grants: () => grants, audit };

// --- running ---

let drawn = null; // the open view's function
let round = 0;
let waiting = 0;

/** Draw the view anew, unless the reader has something open or marked in it. */
async function refresh() {
  const mine = ++round;
  const draw = drawn;
  waiting++;
  try {
    const status = await get("/v1/status");
    const [parts, ready] = await Promise.all([draw(), get("/readyz")]);
    if (mine !== round) return;
    signedIn(status, ready);
    const same = parts.length === view.children.length && parts.every((part, place) => part === view.children[place]);
    if (!same && !busy()) view.replaceChildren(...parts);
  } catch (error) {
    if (mine === round) failed(error);
  } finally {
    waiting--;
  }
}

function busy() {
  const selection = document.getSelection();
  const marked = selection && !selection.isCollapsed && view.contains(selection.anchorNode);
  const focused = view.contains(document.activeElement) && document.activeElement.matches("summary, pre, a, button");
  return marked || focused || view.querySelector("details[open]") !== null;
}

function signedIn(status, ready) {
  document.getElementById("tabs").hidden = false;
  document.getElementById("trouble").hidden = true;
  document.getElementById("sign-out").hidden = !sessionStorage.getItem("token");
  document.getElementById("who").textContent = status.actor;
  const health = document.getElementById("health");
  health.textContent = ready.ready ? "ready" : "not ready";
  health.className = `pill ${ready.ready ? "good" : "bad"}`;
  signIn.hidden = true;
}

function failed(error) {
  const trouble = document.getElementById("trouble");
  const health = document.getElementById("health");
  if (error instanceof Refused && (error.status === 401 || error.status === 429)) {
    const had = sessionStorage.getItem("token");
    sessionStorage.removeItem("token");
    view.replaceChildren();
    document.getElementById("tabs").hidden = true;
    document.getElementById("sign-out").hidden = true;
    document.getElementById("who").textContent = "";
    health.textContent = "signed out";
    health.className = "pill";
    trouble.hidden = !had;
    trouble.textContent = had ? `Not signed in: ${error.message}.` : "";
    if (signIn.hidden) {
      signIn.hidden = false;
      document.getElementById("token").focus();
    }
    return;
  }
  health.textContent = "no answer";
  health.className = "pill bad";
  trouble.hidden = false;
  trouble.textContent = error instanceof Refused ? `${error.message}. ${error.hint}` : "The broker does not answer. Trying again…";
}

function open() {
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "overview";
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${document.querySelector("#tabs a[aria-current]").textContent} · Key broker · sealserve`;
  drawn = VIEWS[name]();
  view.replaceChildren();
  refresh();
}

signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("token");
  sessionStorage.setItem("token", field.value.trim());
  field.value = "";
  refresh();
});
document.getElementById("sign-out").addEventListener("click", () => {
  sessionStorage.removeItem("token");
  location.reload();
});
addEventListener("hashchange", () => location.hash === "#main" || open());
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => {
  if (!document.hidden && signIn.hidden && !waiting) refresh();
}, PERIOD);
open();
