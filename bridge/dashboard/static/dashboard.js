// What pages do better with a script: times in the browser's own zone, charts of their tables, keys.
"use strict";

const zoned = (root) => {
  for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(time.dateTime);
    time.title = time.dateTime;
    time.textContent = at.toLocaleString("sv-SE");
  }
};

const charts = new Map();

const clock = (at) => {
  const text = at.toLocaleString("sv-SE");
  return at.getHours() + at.getMinutes() ? text.slice(11, 16) : text.slice(5, 10);
};

// A chart shows the numbers of the table beside it: a point in time in the first column, in seconds, then series.
const draw = (figure) => {
  const heads = [...figure.querySelectorAll("thead th")].map((cell) => cell.textContent);
  const rows = [...figure.querySelectorAll("tbody tr")].map((row) => [...row.cells].map((cell) => Number(cell.dataset.value)));
  rows.reverse();
  const data = heads.map((_, column) => rows.map((row) => row[column]));
  const place = figure.querySelector(".chart");
  const style = getComputedStyle(document.documentElement);
  const ink = getComputedStyle(document.querySelector("footer")).color;
  const old = charts.get(figure.id);
  if (old && old.root.isConnected) {
    old.setData(data);
    return;
  }
  const probe = document.createElement("i");
  place.append(probe);
  const colour = (name) => {
    probe.className = name;
    return getComputedStyle(probe).color;
  };
  const names = figure.dataset.colours.split(" ");
  const axis = { size: 30, stroke: ink, grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: `12px ${style.fontFamily}` };
  const options = {
    width: place.clientWidth,
    height: 200,
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 1)] } },
    axes: [{ ...axis, values: (_, at) => at.map((second) => clock(new Date(second * 1000))) }, { ...axis, size: 55 }],
    series: [{}, ...heads.slice(1).map((label, k) => ({ label, stroke: colour(names[k]), width: 2, points: { show: false } }))],
  };
  probe.remove();
  const made = new uPlot(options, data, place);
  charts.set(figure.id, made);
  new ResizeObserver(() => made.setSize({ width: place.clientWidth, height: 200 })).observe(place);
};

const fresh = () => {
  zoned(document);
  if (window.uPlot) document.querySelectorAll("figure[data-colours]").forEach(draw);
};

document.addEventListener("DOMContentLoaded", fresh);
document.addEventListener("htmx:after:swap", fresh);
document.addEventListener("htmx:sse:after:message", fresh);

let leader = false;
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    document.querySelector("header input").focus();
  } else if (leader) {
    leader = false;
    document.querySelector(`header [data-key="${CSS.escape(event.key)}"]`)?.click();
  } else {
    leader = event.key === "g";
  }
});
