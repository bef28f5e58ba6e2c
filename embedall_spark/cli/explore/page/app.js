"use strict";
// The page: what is asked is kept in `state`, which is also the address's part after #.
const $ = name => document.getElementById(name);
const state = {table: 0, second: -1, chips: [], where: "", kind: "", color: "", view: [0, 0, 1]};
let tables = [], points = null, asked = 0, later = 0;

async function fetched(path, options) {
  const answer = await fetch(path, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error || answer.statusText);
  return value;
}

// Texts from data are set as text, never as HTML.
function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function choices(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    return option;
  }));
  select.value = chosen;
}

function remember() {
  history.replaceState(null, "", "#" + encodeURIComponent(JSON.stringify(state)));
}

async function attempt(work) {
  $("error").textContent = "";
  try {
    await work();
  } catch (error) {
    $("error").textContent = error.message;
  }
}

function showChips() {
  $("chips").replaceChildren(...state.chips.map((chip, place) => {
    const button = element("button", `${chip.sign > 0 ? "+" : "\u2212"} ${chip.title} \u00d7`, `chip ${chip.sign > 0 ? "plus" : "minus"}`);
    button.type = "button";
    button.title = "Remove";
    button.addEventListener("click", () => {
      state.chips.splice(place, 1);
      ask();
    });
    return button;
  }));
}

function card(hit, table) {
  const button = element("button", undefined, "hit"), name = element("span", hit.title, "name");
  button.type = "button";
  if (hit.picture) {
    const picture = element("img");
    picture.loading = "lazy";
    picture.alt = "";
    picture.src = `picture?table=${table}&id=${encodeURIComponent(hit.id)}`;
    button.append(picture);
  }
  name.append(element("small", hit.title === hit.id ? hit.kind : `${hit.kind} \u00b7 ${hit.id}`));
  button.append(name, element("span", hit.score.toFixed(3), "score"));
  button.addEventListener("click", () => {
    state.chips = [{sign: 1, id: hit.id, title: hit.title}];
    ask();
  });
  const row = element("li");
  row.append(button);
  return row;
}

async function answers(table, place) {
  $("name" + place).textContent = tables[table].name;
  if (!state.chips.length) {
    $("hits" + place).replaceChildren();
    return [];
  }
  const body = JSON.stringify({chips: state.chips, where: state.where, kind: state.kind});
  let hits = [];
  try {
    hits = await fetched(`ask?table=${table}`, {method: "POST", body});
  } catch (error) {
    // What the first table has, the second may lack.
    if (!place) throw error;
    $("hits" + place).replaceChildren(element("li", error.message));
    return hits;
  }
  $("hits" + place).replaceChildren(...hits.map(hit => card(hit, table)));
  if (!hits.length) $("hits" + place).append(element("li", "no row fulfills the filters"));
  return hits;
}

async function ask() {
  const number = ++asked;
  showChips();
  remember();
  await attempt(async () => {
    const hits = await answers(state.table, 0);
    $("beside").hidden = state.second < 0;
    document.body.classList.toggle("two", state.second >= 0);
    if (state.second >= 0) await answers(state.second, 1);
    if (points && number === asked) {
      const wanted = new Set([...hits.map(hit => hit.id), ...state.chips.map(chip => chip.id)]);
      map.paint(null, points.ids.flatMap((id, i) => wanted.has(id) ? [i] : []));
    }
  });
  document.body.dataset.asked = number;
}

async function add(sign) {
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  await attempt(async () => {
    const chip = await fetched(`resolve?table=${state.table}&text=${encodeURIComponent(text)}`);
    state.chips.push({sign, ...chip});
    await ask();
  });
}

async function drop(file) {
  if (!file) return;
  await attempt(async () => {
    $("drop").firstChild.textContent = "The picture is being embedded\u2026";
    try {
      const {words, ...chip} = await fetched(`drop?table=${state.table}`, {method: "POST", body: file});
      state.chips = [{sign: 1, ...chip, title: file.name || "picture"}];
      $("suggestions").replaceChildren(...words.map(word => {
        const button = element("button", word, "chip");
        button.type = "button";
        button.addEventListener("click", () => { $("text").value = word; add(1); });
        return button;
      }));
      await ask();
    } finally {
      $("drop").firstChild.textContent = "Drop a picture here, or press Enter to choose one";
    }
  });
}

function color() {
  const way = points.colors[state.color] || Object.values(points.colors)[0];
  map.paint(way.codes, null);
  $("legend").replaceChildren(...way.groups.map((group, code) => {
    const row = element("li"), mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    mark.setAttribute("viewBox", "0 0 10 10");
    for (const [name, value] of [["cx", 5], ["cy", 5], ["r", 5], ["fill", COLORS[code % COLORS.length]]]) circle.setAttribute(name, value);
    mark.append(circle);
    row.append(mark, group);
    return row;
  }));
}

async function showTable() {
  const about = tables[state.table];
  $("about").textContent = `${about.rows.toLocaleString("en")} rows, ${about.dimension} dimensions`;
  choices($("kind"), [["", "all"], ...about.kinds.map(kind => [kind, kind])], state.kind);
  const [known, places] = await Promise.all([fetched(`points?table=${state.table}`),
    fetch(`places?table=${state.table}`).then(answer => answer.arrayBuffer())]);
  points = known;
  map.view = state.view.slice();
  map.show(new Float32Array(places));
  const ways = Object.keys(points.colors);
  if (!ways.includes(state.color)) state.color = ways.includes("label") ? "label" : "cluster";
  choices($("color"), ways.map(way => [way, way]), state.color);
  color();
  await ask();
  document.body.dataset.ready = about.name;
}

function hover(event) {
  const place = event.buttons ? -1 : map.nearest(event.offsetX, event.offsetY);
  $("tip").hidden = place < 0;
  if (place < 0) return;
  const id = points.ids[place], title = points.titles[place];
  $("tiptext").textContent = title === id ? id : `${title} [${id}]`;
  $("tippicture").hidden = true;
  $("tippicture").onload = () => { $("tippicture").hidden = false; };
  $("tippicture").src = `picture?table=${state.table}&id=${encodeURIComponent(id)}`;
  $("tip").style.left = `${Math.min(event.offsetX + 20, $("map").clientWidth - 120)}px`;
  $("tip").style.top = `${event.offsetY + $("map").offsetTop + 15}px`;
}

// Browsers limit how often the address changes.
const map = new PointMap($("map"), view => {
  state.view = view;
  clearTimeout(later);
  later = setTimeout(remember, 150);
});
$("map").addEventListener("pointermove", hover);
$("map").addEventListener("pointerleave", () => { $("tip").hidden = true; });
$("map").addEventListener("click", event => {
  const place = map.dragged ? -1 : map.nearest(event.offsetX, event.offsetY);
  if (place < 0) return;
  state.chips = [{sign: 1, id: points.ids[place], title: points.titles[place]}];
  ask();
});
$("whole").addEventListener("click", () => map.move([0, 0, 1]));
$("words").addEventListener("submit", event => { event.preventDefault(); add(1); });
$("minus").addEventListener("click", () => add(-1));
$("filters").addEventListener("submit", event => {
  event.preventDefault();
  state.where = $("where").value;
  ask();
});
$("kind").addEventListener("change", () => { state.kind = $("kind").value; ask(); });
$("color").addEventListener("change", () => { state.color = $("color").value; color(); remember(); });
$("second").addEventListener("change", () => { state.second = Number($("second").value); ask(); });
$("table").addEventListener("change", () => {
  Object.assign(state, {table: Number($("table").value), kind: "", color: "", view: [0, 0, 1]});
  attempt(showTable);
});
$("link").addEventListener("click", () => attempt(async () => {
  await navigator.clipboard.writeText(location.href);
  $("link").textContent = "Copied";
}));
$("drop").addEventListener("click", () => $("file").click());
$("file").addEventListener("click", event => event.stopPropagation());
$("drop").addEventListener("keydown", event => { if (event.key === "Enter") $("file").click(); });
$("file").addEventListener("change", () => drop($("file").files[0]));
$("drop").addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
$("drop").addEventListener("dragleave", () => $("drop").classList.remove("over"));
$("drop").addEventListener("drop", event => {
  event.preventDefault();
  $("drop").classList.remove("over");
  drop(event.dataTransfer.files[0]);
});
document.addEventListener("keydown", event => {
  if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    $("text").focus();
  }
});

attempt(async () => {
  tables = await fetched("tables");
  const names = tables.map((table, place) => [place, table.name]);
  try {
    Object.assign(state, JSON.parse(decodeURIComponent(location.hash.slice(1))));
  } catch { /* There is no link's state. */ }
  choices($("table"), names, state.table);
  choices($("second"), [[-1, "none"], ...names], state.second);
  $("where").value = state.where;
  await showTable();
});
