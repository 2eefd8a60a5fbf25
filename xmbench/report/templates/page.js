// The page's own script: it joins what is chosen with DataTables and plotly. Text is put in as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const narrow = matchMedia("(max-width: 760px)");
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const PLOTS = ["noise", "pr", "training", "classes", "tsne"];
const chosen = { group: 0, rate: 0, selection: "best_valid", colour: "class" };
let boardTable = null;
const dataTables = {};

const group = () => data.groups[chosen.group];
const escaped = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const fixed = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−"));
const signed = (value, digits) => (value > 0 ? "+" : "") + fixed(value, digits);

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Columns: DataTables takes a string for HTML, so that what is shown is a node, and what is searched is escaped.
function textColumn(title, value, className = "", show = (text) => element("span", "", text)) {
  const render = (cell, type, row) => {
    const text = value(row);
    return type === "display" ? show(text, row) : type === "filter" ? escaped(text) : text;
  };
  return { title: escaped(title), data: null, type: "string", className, render };
}

function numberColumn(title, value, show, className = "number") {
  const render = (cell, type, row) => {
    const number = value(row);
    if (type === "display") return show(number, row);
    return type === "filter" ? escaped(number ?? "") : number ?? -Infinity;
  };
  return { title: escaped(title), data: null, type: "num", className, orderSequence: ["desc", "asc"], render };
}

function makeTable(id, columns, rows, options) {
  const region = byId(id).closest("[role=region]");
  const table = new DataTable(byId(id), {
    columns,
    data: rows,
    autoWidth: false,
    pageLength: 10,
    lengthMenu: [10, 25, 50, 100, { label: "all", value: -1 }],
    layout: { topStart: "search", topEnd: "pageLength", bottomStart: "info", bottomEnd: "paging" },
    language: { search: "Filter", lengthMenu: "_MENU_ per page", emptyTable: "nothing to show" },
    ...options,
  });
  region.querySelector("nav").setAttribute("aria-label", `Pages: ${region.getAttribute("aria-label")}`);
  return table;
}

// ---- leaderboard: rows are [method, cells of (mean, std, rank), loss, last minus best, seeds, seconds, remarks] ------

function swatch(text, row) {
  const whole = element("span");
  const dot = element("span", "swatch");
  dot.style.background = data.looks[row[0]].marker.color;
  whole.append(dot, text);
  return whole;
}

function boardColumns() {
  const { columns, main } = group();
  const digits = columns[main].digits;
  const shownMetric = (column, i) =>
    numberColumn(
      column.head,
      (row) => row[1][i]?.[0] ?? null,
      (value, row) => {
        const [, std, rank] = row[1][i] ?? [null, null, 0];
        const node = element("span", ["", "best", "second"][rank] ?? "", fixed(value, column.digits));
        const whole = element("span");
        whole.append(node);
        if (std !== null) whole.append(element("span", "spread", ` ± ${fixed(std, column.digits)}`));
        return whole;
      },
      i === main ? "number bar" : "number",
    );
  const change = (value) => element("span", "", value === null ? "–" : signed(value, digits));
  const badges = (text, row) => {
    const whole = element("span");
    row[6].forEach((remark) => whole.append(element("span", "badge", remark)));
    return whole;
  };
  return [
    textColumn("Method", (row) => data.methods[row[0]], "method", swatch),
    ...columns.map(shownMetric),
    numberColumn("Change by noise", (row) => row[2], change),
    numberColumn("Last − best", (row) => row[3], change),
    numberColumn("Seeds", (row) => row[4], (value) => element("span", "", value)),
    numberColumn("Fit, s", (row) => row[5], (value) => element("span", "", fixed(value, value < 1 ? 2 : value < 10 ? 1 : 0))),
    textColumn("Remarks", (row) => row[6].join(", "), "", badges),
  ];
}

const boardRows = () => group().rows[chosen.selection][chosen.rate];

function drawBars(row, cells) {
  const main = group().main;
  const values = boardRows().map((other) => other[1][main]?.[0] ?? 0);
  const part = (100 * (cells[1][main]?.[0] ?? 0)) / Math.max(...values, 1e-9);
  row.querySelector("td.bar")?.style.setProperty("--part", `${part.toFixed(1)}%`);
}

function showBoard() {
  if (boardTable) {
    boardTable.destroy();
    byId("board").replaceChildren();
  }
  boardTable = makeTable("board", boardColumns(), boardRows(), {
    order: [[group().main + 1, "desc"]],
    createdRow: drawBars,
    caption: "",
  });
  boardTable.on("draw", () => requestAnimationFrame(showPlots));
  byId("group-caption").textContent = group().caption;
  byId("group-notes").replaceChildren(...group().notes.map((note) => element("li", "", note)));
}

const shownMethods = () => boardTable.rows({ page: "current", search: "applied", order: "current" }).data().toArray().map((row) => row[0]);

// ---- plots -----------------------------------------------------------------------------------------------------------

function theme() {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    xaxis: axis,
    yaxis: axis,
    margin: { l: 56, r: 16, t: 36, b: 56 },
    hoverlabel: { namelength: -1 },
    legend: { itemsizing: "constant" },
  };
}

function tracesOf(plot, methods) {
  const place = new Map(methods.map((method, i) => [method, i]));
  const held = (meta) =>
    Object.entries(meta ?? {}).every(([name, value]) => (name === "method" ? place.has(value) : chosen[name] === value));
  const shown = plot.traces.filter((trace) => held(trace.meta));
  shown.sort((a, b) => (place.get(a.meta?.method) ?? 1e9) - (place.get(b.meta?.method) ?? 1e9));
  return shown.map((trace) => ({ ...data.looks[trace.meta?.method], ...plot.shared, ...trace }));
}

// What plotly draws: of a heatmap all rows of a panel as one trace, and each method once in the legend.
function drawn(traces) {
  if (traces[0]?.type === "heatmap") {
    const panels = Map.groupBy(traces, (trace) => trace.xaxis);
    return [...panels.values()].map((rows) => ({ ...rows[0], y: rows.map((row) => row.name), z: rows.map((row) => row.z[0]) }));
  }
  const listed = new Set();
  return traces.map((trace) => {
    const showlegend = trace.legendgroup !== undefined && !listed.has(trace.legendgroup);
    listed.add(trace.legendgroup);
    return { ...trace, showlegend };
  });
}

function showPlot(name, methods) {
  const plot = group().plots[name];
  const traces = plot ? tracesOf(plot, methods) : [];
  const shows = traces.some(({ meta }) => meta?.method !== undefined || meta?.colour !== undefined); // more than guides
  byId(`${name}-figure`).hidden = !shows;
  byId(`${name}-empty`).hidden = shows;
  byId(`${name}-empty`).textContent = plot ? "None of the methods shown has this at this noise rate." : group().empty[name];
  if (!shows) return;
  const layout = structuredClone(narrow.matches ? plot.narrow : plot.wide);
  const legendRows = new Set(traces.map((trace) => trace.legendgroup)).size;
  const rows = plot.rowHeight * methods.length;
  layout.height += rows + (narrow.matches ? (rows ? rows : 22 * legendRows) : 0);
  layout.template = { layout: theme(), data: plot.defaults };
  const shown = byId(`${name}-plot`);
  shown.setAttribute("aria-label", `${plot.title}: ${group().title}. ${plot.caption} The data are in the table below.`);
  const seen = new Set(traces.map((trace) => trace.meta?.method).filter((method) => method !== undefined));
  const without = seen.size ? methods.filter((method) => !seen.has(method)).map((method) => data.methods[method]) : [];
  byId(`${name}-caption`).textContent = plot.caption + (without.length ? ` Without data for it: ${without.join(", ")}.` : "");
  Plotly.react(shown, drawn(traces), layout, { responsive: true, displayModeBar: false });
  shown.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
  if (byId(`${name}-details`).open) showData(name, traces);
}

function showPlots() {
  const methods = shownMethods();
  PLOTS.forEach((name) => showPlot(name, methods));
}

const named = (text) => new DOMParser().parseFromString(text ?? "", "text/html").body.textContent;

function pointsOf(plot, trace) {
  const panel = plot.panels[Number((trace.xaxis ?? "x").slice(1) || 1) - 1];
  const at = (i) => (trace.x ? trace.x[i] : trace.x0 + i);
  const x = (i) => (typeof at(i) === "string" ? named(at(i)) : at(i));
  return (trace.z?.[0] ?? trace.y).map((value, i) => [named(trace.name), panel, x(i), value]);
}

function showData(name, traces) {
  const plot = group().plots[name];
  dataTables[name]?.destroy();
  byId(`${name}-data`).replaceChildren();
  const rows = traces.filter((trace) => trace.name !== undefined).flatMap((trace) => pointsOf(plot, trace));
  const number = (value) => element("span", "", value === null ? "–" : String(Number(value.toPrecision(6))));
  const column = (title, i) => {
    const numeric = rows.every((row) => row[i] === null || typeof row[i] === "number");
    return numeric ? numberColumn(title, (row) => row[i], number) : textColumn(title, (row) => row[i] ?? "");
  };
  dataTables[name] = makeTable(`${name}-data`, plot.columns.map(column), rows, { order: [] });
}

// ---- runs and scorecard ----------------------------------------------------------------------------------------------

const coded = (values, i) => (values.numbers ? values.numbers[i] : values.texts[values.codes[i]]);

function codedColumn(table, name, short = (text) => text) {
  const values = table.values[table.columns.indexOf(name)];
  const title = (name[0].toUpperCase() + name.slice(1)).replaceAll("_", " ");
  const value = (i) => coded(values, i);
  const number = (shown) => element("span", "", shown === null ? "–" : String(Number(shown.toPrecision(4))).replace("-", "−"));
  if (values.numbers) return numberColumn(title, value, number);
  const badge = ["status", "verdict"].includes(name) ? "badge" : "";
  return textColumn(title, value, name === "reason" ? "words" : "", (text) => element("span", badge, short(text)));
}

function runDetails(run) {
  const list = element("dl", "run");
  data.runs.columns.forEach((name, k) => {
    const value = coded(data.runs.values[k], run);
    if (value !== "" && value !== null) list.append(element("dt", "", name), element("dd", "", value));
  });
  return list;
}

function showRuns() {
  const main = ["run_id", "status", "method", "score", "dataset", "noise_scheme", "noise_rate", "seed", "protocol", "fit_seconds", "device", "git_commit", "stale"];
  const columns = main.map((name) => codedColumn(data.runs, name, (text) => (name === "git_commit" ? text.slice(0, 10) : text)));
  const opener = (text, run) => {
    const button = element("button", "open", "+");
    button.type = "button";
    button.setAttribute("aria-label", `Details of run ${text}`);
    button.setAttribute("aria-expanded", "false");
    return button;
  };
  const first = { ...textColumn("Details", (run) => coded(data.runs.values[0], run), "", opener), orderable: false };
  const n = data.runs.values[0].codes.length;
  const table = makeTable("runs-table", [first, ...columns], [...Array(n).keys()], { order: [[1, "asc"]] });
  byId("runs-table").addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (!button) return;
    const row = table.row(button.closest("tr"));
    const open = row.child.isShown();
    if (open) row.child.hide();
    else row.child(runDetails(row.data())).show();
    button.textContent = open ? "+" : "−";
    button.setAttribute("aria-expanded", String(!open));
  });
}

function showScorecard() {
  const card = data.scorecard;
  if (!card) return;
  const columns = card.columns.map((name) => codedColumn(card, name));
  const n = card.values[0].codes.length;
  makeTable("scorecard-table", columns, [...Array(n).keys()], { order: [] });
}

// ---- what is chosen --------------------------------------------------------------------------------------------------

function tell() {
  const { rates, title, main, metric } = group();
  byId("rate-shown").textContent = String(rates[chosen.rate]);
  byId("rate").setAttribute("aria-valuetext", `noise rate ${rates[chosen.rate]}`);
  const best = boardRows().find((row) => row[1][main]?.[2] === 1);
  const words = best ? `; best: ${data.methods[best[0]]} with ${metric} ${fixed(best[1][main][0], group().columns[main].digits)}` : "";
  const epoch = chosen.selection === "last" ? "last epoch" : "best epoch on validation";
  byId("status").textContent = `${title}, noise rate ${rates[chosen.rate]}, ${epoch}${words}.`;
}

function update() {
  tell();
  boardTable.clear().rows.add(boardRows()).draw();
}

function chooseGroup(number) {
  const rate = group().rates[chosen.rate];
  chosen.group = number;
  const { rates } = group();
  chosen.rate = Math.max(rates.indexOf(rate), 0);
  Object.assign(byId("rate"), { max: rates.length - 1, value: chosen.rate, disabled: rates.length < 2 });
  byId("rates").replaceChildren(...rates.map((value, i) => Object.assign(element("option"), { value: i, label: value })));
  showBoard();
  tell();
  showPlots();
}

function setTheme(dark) {
  root.classList.toggle("dark", dark);
  byId("theme").textContent = dark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-pressed", String(dark));
}

byId("group").addEventListener("change", (event) => chooseGroup(Number(event.target.value)));
byId("rate").addEventListener("input", (event) => {
  chosen.rate = Number(event.target.value);
  update();
});
document.querySelectorAll("input[type=radio]").forEach((radio) =>
  radio.addEventListener("change", () => {
    chosen[radio.name] = radio.value;
    update();
  }),
);
PLOTS.forEach((name) => byId(`${name}-details`).addEventListener("toggle", showPlots));
document.querySelectorAll("button.save").forEach((button) =>
  button.addEventListener("click", () => {
    const plot = byId(`${button.dataset.plot}-plot`);
    Plotly.downloadImage(plot, { format: "svg", filename: button.dataset.plot, width: plot.clientWidth, height: plot.clientHeight });
  }),
);
byId("theme").addEventListener("click", () => {
  setTheme(!root.classList.contains("dark"));
  showPlots();
});
prefersDark.addEventListener("change", () => {
  setTheme(prefersDark.matches);
  showPlots();
});
narrow.addEventListener("change", showPlots);
byId("copy").addEventListener("click", async () => {
  const text = byId("bibtex").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection().selectAllChildren(byId("bibtex"));
    document.execCommand("copy");
  }
  byId("status").textContent = "BibTeX copied.";
  byId("copy").textContent = "Copied";
});

setTheme(prefersDark.matches);
showRuns();
showScorecard();
chooseGroup(0);
root.dataset.ready = "yes";
