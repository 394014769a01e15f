"use strict";
(() => {
  // The trial table: a button in every heading sorts, a text and a status narrow. Without this script it is a plain table.
  const table = document.querySelector("#trial-table table");
  if (table) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row, place) => {
      const cells = Array.from(row.cells, (cell) => cell.textContent.trim());
      return { row, place, cells, text: cells.join(" ").toLowerCase(), status: row.dataset.status };
    });
    const headings = Array.from(table.tHead.rows[0].cells);
    const words = new Intl.Collator(undefined, { numeric: true });
    const key = (cell, number) => (number ? (cell === "" ? NaN : Number(cell.replace("\u2212", "-"))) : cell);
    const sort = (column) => {
      const heading = headings[column];
      const number = heading.classList.contains("n");
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const sign = up ? 1 : -1;
      const keyed = rows.map((entry) => [key(entry.cells[column], number), entry]);
      keyed.sort(([a, x], [b, y]) => {
        const missing = number ? Number.isNaN(a) - Number.isNaN(b) : (a === "") - (b === "");
        if (missing) return missing; // what is not there comes last, either way
        const order = number ? a - b || 0 : words.compare(a, b);
        return sign * order || x.place - y.place;
      });
      body.append(...keyed.map(([, entry]) => entry.row));
    };
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(column));
    });

    const controls = document.querySelector("#trial-controls");
    const text = controls.querySelector("input");
    const status = controls.querySelector("select");
    const count = controls.querySelector("output");
    const filter = () => {
      const parts = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const entry of rows) {
        const match = (!status.value || entry.status === status.value) && parts.every((part) => entry.text.includes(part));
        entry.row.hidden = !match;
        shown += match;
      }
      count.textContent = `${shown} of ${rows.length} shown`;
    };
    text.addEventListener("input", filter);
    status.addEventListener("change", filter);
    controls.hidden = false;
    filter();
  }

  // Only what scrolls is worth a stop of the Tab key.
  const regions = Array.from(document.querySelectorAll(".scroll:not(.trials)"));
  const stops = () => regions.forEach((region) => {
    if (region.scrollWidth > region.clientWidth || region.scrollHeight > region.clientHeight) region.tabIndex = 0;
    else region.removeAttribute("tabindex");
  });
  stops();
  addEventListener("resize", stops);
  document.querySelectorAll("details").forEach((part) => part.addEventListener("toggle", stops));

  // The contents: open beside the text where there is room, and marking the section that is being read.
  const contents = document.querySelector(".contents details");
  const wide = matchMedia("(min-width: 64rem)");
  const place = () => { contents.open = wide.matches; };
  place();
  wide.addEventListener("change", place);
  contents.addEventListener("click", (event) => { if (event.target.closest("a") && !wide.matches) contents.open = false; });
  const links = new Map(Array.from(contents.querySelectorAll("a"), (link) => [link.hash.slice(1), link]));
  const sections = Array.from(document.querySelectorAll("main > section"));
  const mark = () => {
    const read = sections.filter((section) => section.getBoundingClientRect().top < innerHeight / 3).pop() || sections[0];
    links.forEach((link, id) => { if (read && id === read.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  let closed = [];
  addEventListener("beforeprint", () => { closed = Array.from(document.querySelectorAll("details:not([open])")); closed.forEach((part) => { part.open = true; }); });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
})();
