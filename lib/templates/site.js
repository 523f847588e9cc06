/* What pages do in the browser beyond text and links. Without it nothing is lost: it sorts, finds and folds. */

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const one = (selector, root = document) => root.querySelector(selector);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children);
  return element;
}

/* ------------------------------------------------------------------------------------------ contents and code */

const contents = one(".contents"), button = one("#all-code");

if (contents) {
  contents.open = matchMedia("(min-width: 64rem)").matches;
  const links = new Map(all("a", contents).map(link => [link.hash.slice(1), link]));
  const spy = new IntersectionObserver(seen => seen.filter(entry => entry.isIntersecting).forEach(entry => {
    links.forEach(link => link.removeAttribute("aria-current"));
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }), {rootMargin: "0px 0px -75% 0px"});
  links.forEach((link, id) => document.getElementById(id) && spy.observe(document.getElementById(id)));
}

if (button) {
  button.hidden = !one("details.code");
  button.onclick = () => {
    const open = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", open);
    all("details.code").forEach(code => code.open = open);
  };
}

/* ----------------------------------------------------------------------------------------------------- tables */

// A cell such as “1,234”, “−1.8” or “69.7 [68.8, 70.6]” sorts by the number it begins with.
const number = text => parseFloat(text.trim().replace("\u2212", "-").replaceAll(",", ""));
const SORTABLE = 5, FILTERED = 16, TALL = 40; // rows from which it is worth while
Tablesort.extend("number", text => !isNaN(number(text)), (a, b) => (number(b) || 0) - (number(a) || 0));

all("article table").forEach(table => {
  const body = table.tBodies[0], rows = body ? [...body.rows] : [];
  if (!table.tHead || rows.length < SORTABLE || one("[rowspan], [colspan]", table)) return;
  const heads = [...table.tHead.rows].at(-1).cells;
  all("td:not(.number)", table).forEach(cell => cell.classList.toggle("words", cell.textContent.length > 12));

  // A first column may say a name once for all rows below; as soon as rows move, each needs its own.
  const complete = () => rows.forEach((row, place) => row.cells[0].textContent.trim() || place === 0
    || (row.cells[0].textContent = rows[place - 1].cells[0].textContent));

  new Tablesort(table);
  const mark = () => [...heads].forEach(head => head.ariaSort || head.setAttribute("aria-sort", "none"));
  mark();
  table.addEventListener("beforeSort", complete);
  table.addEventListener("afterSort", () => {
    mark();
    const column = [...heads].findIndex(head => head.ariaSort !== "none");
    body.append(...[...body.rows].filter(row => !row.cells[column].textContent.trim())); // blanks come last
  });
  if (rows.length >= FILTERED) table.closest(".scroll").before(filter(rows, complete));
  table.closest(".scroll")?.classList.toggle("tall", rows.length >= TALL);
});

function filter(rows, before) {
  const input = make("input", {type: "search"});
  const output = make("output", {}, `${rows.length} rows`);
  input.oninput = () => {
    before();
    const words = input.value.toLowerCase().split(/\s+/);
    rows.forEach(row => row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)));
    output.value = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  };
  return make("p", {class: "filter"}, make("label", {}, "Rows with the words ", input), " ", output);
}

// What goes on to the right is faded there until it is scrolled to its end.
all(".scroll").forEach(box => {
  const mark = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  const seen = new ResizeObserver(mark);
  [box, ...box.children].forEach(element => seen.observe(element));
  box.addEventListener("scroll", mark, {passive: true});
});

/* ---------------------------------------------------------------------------------------------- images on hover */

// Where the picture of a number stands on a sheet of them that is 4rem wide for each, as a background-position.
const corner = (number, columns) => `${number % columns * -4}rem ${Math.floor(number / columns) * -4}rem`;

all(".hover").forEach(figure => {
  const {sheet, columns, spots} = JSON.parse(one("script", figure).textContent), chart = one("img", figure);
  const image = make("span", {class: "picture"}), name = make("span"), label = make("output", {class: "spot"}, image, name);
  const ring = make("span", {class: "ring"});
  image.style.background = `url(data:image/webp;base64,${sheet}) 0 0 / ${columns * 4}rem auto`;
  const help = "Point at a dot, or move with the arrow keys, to see its image.";
  figure.append(label, ring);
  figure.after(make("p", {class: "facts"}, help));
  figure.setAttribute("role", "group");
  figure.setAttribute("aria-label", help);
  let at = [50, 50];

  function frame() { // the picture without its border, in pixels
    const border = parseFloat(getComputedStyle(chart).paddingLeft);
    return [border, chart.clientWidth - 2 * border, chart.clientHeight - 2 * border];
  }

  const place = (element, left, top) =>
    Object.assign(element.style, {left: `${chart.offsetLeft + left}px`, top: `${chart.offsetTop + top}px`});

  function nearest(x, y, fits = () => true) { // the number of the spot nearest to a place in %, and how many pixels away
    const [, width, height] = frame();
    const far = spots.map(([left, top]) => [(left - x) / 100 * width, (top - y) / 100 * height])
      .map(way => fits(...way) ? Math.hypot(...way) : Infinity);
    return [far.indexOf(Math.min(...far)), Math.min(...far)];
  }

  function show([number, far], reach) {
    label.classList.toggle("on", far < reach);
    if (far >= reach) return;
    at = spots[number];
    image.style.backgroundPosition = corner(number, columns);
    name.textContent = at[2];
    const [border, width, height] = frame(), [left, top] = [border + at[0] / 100 * width, border + at[1] / 100 * height];
    const x = Math.max(0, Math.min(left - label.offsetWidth / 2, chart.clientWidth - label.offsetWidth));
    const y = top - label.offsetHeight - 10;
    place(ring, left, top);
    place(label, x, y > 0 ? y : top + 10);
  }

  chart.onpointermove = chart.onpointerdown = ({offsetX, offsetY}) => {
    const [border, width, height] = frame();
    show(nearest((offsetX - border) / width * 100, (offsetY - border) / height * 100), 20);
  };
  const hide = () => label.classList.remove("on");
  chart.onpointerleave = ({pointerType}) => pointerType === "touch" || hide(); // a finger leaves as soon as it has tapped
  figure.onblur = hide;
  figure.onkeydown = event => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (event.key === "Escape") hide();
    if (!step) return;
    event.preventDefault();
    const ahead = (x, y) => x * step[0] + y * step[1] > Math.abs(x * step[1] + y * step[0]);
    const next = nearest(at[0], at[1], ahead);
    if (next[1] < Infinity) show(next, Infinity);
  };
});

/* ----------------------------------------------------------------------------------------------------- search */

if (one("#search")) {
  const headings = JSON.parse(one("#headings").textContent), input = one("#search"), results = one("#search-results");
  const pages = new Map(headings.filter(([, address]) => !address.includes("#")).map(([title, page]) => [page, title]));
  input.form.hidden = !headings.length;
  input.form.onsubmit = event => { event.preventDefault(); one("a", results)?.click(); };
  input.oninput = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = headings.filter(([title, address]) => {
      const text = `${title} ${pages.get(address.split("#")[0])}`.toLowerCase();
      return words.length && words.every(word => text.includes(word));
    });
    results.replaceChildren(...found.slice(0, 20).map(([title, address]) => make("li", {},
      make("a", {href: address}, title), make("span", {}, address.includes("#") ? pages.get(address.split("#")[0]) : ""))));
    one("#search-count").value = words.length ? `${found.length} found` : "";
  };
}

/* ---------------------------------------------------------------------------------------------------- compare */

function compare({models, labels: packed, classes, pictures, sprite, columns}) {
  const bytes = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const labels = bytes(packed), answers = models.map(model => bytes(model.predicted));
  const selects = [one("#first"), one("#second")], kind = one("#kind");
  const total = test => labels.reduce((sum, label, place) => sum + test(place), 0);
  const count = test => total(test).toLocaleString("en");
  selects.forEach(select => select.append(...models.map(({name, title}, index) =>
    make("option", {value: index}, title === name ? name : `${name}: ${title}`))));
  const scratch = models.findIndex((model, index) => index && !model.pretrained);
  [selects[0].value, selects[1].value] = [0, scratch > 0 ? scratch : 1];

  function draw() {
    const [a, b] = selects.map(select => +select.value), [first, second] = [models[a], models[b]];
    const names = [first.name, second.name], right = index => place => answers[index][place] === labels[place];
    const [aRight, bRight] = [right(a), right(b)], differ = place => answers[a][place] !== answers[b][place];
    const percent = ({value, low, high}) => `${(100 * value).toFixed(1)} % [${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`;
    one("#summary").textContent = `${names[0]} is right on ${percent(first.accuracy)} of ${count(() => 1)} test images, `
      + `${names[1]} on ${percent(second.accuracy)}. They answer differently on ${count(differ)}.`;

    one("#counts-table").replaceChildren(grid("Test images", ["", `${names[1]} right`, `${names[1]} wrong`], [
      [`${names[0]} right`, count(place => aRight(place) && bRight(place)), count(place => aRight(place) && !bRight(place))],
      [`${names[0]} wrong`, count(place => !aRight(place) && bRight(place)), count(place => !aRight(place) && !bRight(place))]]));
    const p = mcnemar(total(place => aRight(place) && !bRight(place)), total(place => !aRight(place) && bRight(place)));
    one("#chance").textContent = "If both were equally good, a difference at least as large would come up with a probability of "
      + `${p < 0.0001 ? "less than 0.0001" : p.toFixed(4)} (McNemar's test, for this one pair: whoever looks at many finds some by chance).`;
    one("#costs-table").replaceChildren(grid("Costs", ["", ...names],
      first.costs.map(([cost, value], place) => [cost, value, second.costs[place][1]])));
    one("#charts").replaceChildren(...["accuracy", "loss"].map(curve => chart(curve, [first, second])));
    if (first.smoothing !== second.smoothing) one("#charts").lastChild.append(make("p", {class: "facts"},
      "Soft labels raise a loss by design, so these two cannot be compared: the label smoothing is "
      + [first, second].map(({name, smoothing}) => `${smoothing} for ${name}`).join(" and ") + "."));
    one("#confusion-table").replaceChildren(confusion(a, b));

    const kinds = [["all on which they differ", differ], [`only ${names[0]} right`, place => aRight(place) && !bRight(place)],
      [`only ${names[1]} right`, place => !aRight(place) && bRight(place)],
      ["both wrong, with different answers", place => differ(place) && !aRight(place) && !bRight(place)]];
    const chosen = Math.max(kind.selectedIndex, 0);
    kind.replaceChildren(...kinds.map(([name]) => make("option", {}, name)));
    kind.selectedIndex = chosen;
    const test = kinds[chosen][1], found = pictures.filter(test);
    one("#shown").textContent = sprite ? `${Math.min(found.length, 48)} of ${count(test)}, those on which most models differ`
      : `images: ${count(test)}; their pictures are shown where this page is rendered with the data at hand`;
    one("#pictures").replaceChildren(...(sprite ? found.slice(0, 48) : []).map(place => {
      const position = corner(pictures.indexOf(place), columns);
      const image = make("span", {class: "picture", role: "img", "aria-label": `Test image ${place}`,
        style: `background: url(${sprite}) ${position} / ${columns * 4}rem auto`});
      const said = [[a, "first"], [b, "second"]].map(([index, key]) => make("span", {}, make("span", {class: `key ${key}`}),
        ` ${classes[answers[index][place]]}${right(index)(place) ? "\u00a0✓" : ""}`));
      return make("li", {}, image, make("strong", {}, classes[labels[place]]), ...said);
    }));
  }

  function confusion(a, b) {
    const difference = classes.map(() => new Array(classes.length).fill(0));
    labels.forEach((label, place) => { difference[label][answers[a][place]]++; difference[label][answers[b][place]]--; });
    const weight = difference.map((row, index) => row.reduce((sum, value, other) =>
      sum + Math.abs(value) + Math.abs(difference[other][index]), 0));
    const shown = [...classes.keys()].sort((one, other) => weight[other] - weight[one]).slice(0, 12).sort((one, other) => one - other);
    const most = Math.max(1, ...difference.flat().map(Math.abs));
    const caption = shown.length < classes.length ? "The 12 classes that differ most" : "Difference of the confusion matrices";
    const table = grid(caption, ["true class", ...shown.map(index => classes[index])],
      shown.map(row => [classes[row], ...shown.map(column => difference[row][column])]));
    all("tbody td", table).forEach(cell => {
      const value = +cell.textContent, colour = value > 0 ? "first" : "second";
      cell.textContent = value > 0 ? `+${value}` : String(value).replace("-", "\u2212");
      cell.style.background = `color-mix(in srgb, var(--${colour}) ${Math.abs(value) / most * 45}%, transparent)`;
    });
    return table;
  }

  function address() {
    const wanted = location.hash.slice(1).split(",").map(name => models.findIndex(model => encodeURIComponent(model.name) === name));
    if (wanted.length === 2 && !wanted.includes(-1)) selects.forEach((select, place) => select.value = wanted[place]);
    draw();
  }
  const remember = () => location.replace(`#${selects.map(select => encodeURIComponent(models[select.value].name))}`);
  selects.forEach(select => select.onchange = remember);
  kind.onchange = draw;
  addEventListener("hashchange", address);
  address();
}

/* The two-sided exact p-value for the numbers of images that only the one and only the other model gets right. */
function mcnemar(first, second) {
  let sum = 0, logarithm = -(first + second) * Math.log(2);
  for (let count = 0; count <= Math.min(first, second); count++) {
    if (count) logarithm += Math.log((first + second - count + 1) / count);
    sum += Math.exp(logarithm);
  }
  return Math.min(1, 2 * sum);
}

function grid(caption, head, rows) {
  const header = (scope, text) => make("th", {scope}, text);
  return make("table", {class: "grid"}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head.map(text => text ? header("col", text) : make("td")))),
    make("tbody", {}, ...rows.map(([name, ...cells]) => make("tr", {}, header("row", name), ...cells.map(text => make("td", {}, text))))));
}

function chart(curve, models) {
  const [scale, unit] = curve === "accuracy" ? [100, "%"] : [1, "nats"];
  const [width, height, left, bottom] = [360, 240, 44, 26], svg = (tag, attributes, text = "") => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.append(text);
    return element;
  };
  const series = models.flatMap(({history}, index) => [["val_", ""], ["", "5 4"]].map(([prefix, dash]) => ({
    values: (history[prefix + curve] || []).map(value => scale * value), dash, key: index ? "second" : "first"})));
  const every = series.flatMap(({values}) => values), third = (Math.max(...every) - Math.min(...every)) / 3 || 1;
  const power = 10 ** Math.floor(Math.log10(third)), step = power * [1, 2, 5, 10].find(round => round * power >= third);
  const [low, high] = [Math.floor(Math.min(...every) / step) * step, Math.ceil(Math.max(...every) / step) * step];
  const epochs = Math.max(...series.map(({values}) => values.length));
  const x = epoch => left + epoch / Math.max(epochs - 1, 1) * (width - left - 10);
  const y = value => 10 + (high - value) / (high - low || 1) * (height - bottom - 10);
  const ends = models.map(({name, history}) => `${name} ends at ${history[`val_${curve}`].at(-1)} in epoch ${history[curve].length}`);
  const picture = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Validation ${curve}: ${ends.join(", ")}`});
  for (let tick = 0; low + (tick - 0.5) * step < high; tick++) {
    const value = low + tick * step;
    picture.append(svg("line", {x1: left, x2: width, y1: y(value), y2: y(value), class: "rule"}),
      svg("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, +value.toFixed(2)));
  }
  picture.append(svg("text", {x: left, y: height - 6}, "1"), svg("text", {x: width - 10, y: height - 6, "text-anchor": "end"}, `epoch ${epochs}`),
    ...series.map(({values, dash, key}) => svg("polyline", {points: values.map((value, epoch) => `${x(epoch)},${y(value)}`).join(" "),
      "stroke-dasharray": dash, class: `curve ${key}`})));
  return make("figure", {}, make("figcaption", {}, `${curve} (${unit})`), picture);
}

if (one("#comparison")) compare(JSON.parse(one("#comparison").textContent));
