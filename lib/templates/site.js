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
const SORTABLE = 5, FILTERED = 16; // rows from which it is worth while
Tablesort.extend("number", text => !isNaN(number(text)), (a, b) => (number(b) || 0) - (number(a) || 0));

all("article table, .sortable").forEach(table => {
  const body = table.tBodies[0], rows = body ? [...body.rows] : [];
  if (!table.tHead || rows.length < SORTABLE || one("[rowspan], [colspan]", table)) return;
  const heads = [...table.tHead.rows].at(-1).cells;
  all("td", table).forEach(cell => cell.classList.toggle("number", /^[\d\u2212-][^a-z]*$/.test(cell.textContent))
    || cell.classList.toggle("words", cell.textContent.length > 12));

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
});

function filter(rows, before) {
  const input = make("input", {type: "search", placeholder: "Words in any column"});
  const output = make("output", {}, `${rows.length} rows`);
  input.oninput = () => {
    before();
    const words = input.value.toLowerCase().split(/\s+/);
    rows.forEach(row => row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word)));
    output.value = `${rows.filter(row => !row.hidden).length} of ${rows.length} rows`;
  };
  return make("p", {class: "filter"}, make("label", {}, "Filter ", input), " ", output);
}

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
