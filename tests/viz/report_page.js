// What the tests of the report ask of its page, in any browser.

// The first cause is clicked, and a photo of it shown.
function clicked() {
  document.querySelector('[data-cause="never looked there"]').click();
  choose(data.photos.findIndex((photo) => table.cause[photo.row] === "never looked there"));
  return new Promise((done) => setTimeout(() => done({
    rows: list.rows.map((row) => table.name[row]),
    chosen: $("chosen").textContent,
    verdict: $("verdict").textContent,
    stars: document.querySelectorAll("#stage .better").length,
    words: $("betterwords").textContent,
    objects: document.querySelectorAll("#stage [data-object]").length,
  }), 300));
}

// Contrast of every visible text with what lies behind it (WCAG 2), the lowest first.
function contrasts() {
  const parts = (colour) => {
    const found = colour.match(/[\d.]+(e-?\d+)?/g).map(Number);
    const scale = colour.startsWith("color(") ? 255 : 1;
    return [...found.slice(0, 3).map((each) => each * scale), found.length > 3 ? found[3] : 1];
  };
  const over = (top, below, opacity = 1) => {
    const alpha = top[3] * opacity;
    return [0, 1, 2].map((at) => top[at] * alpha + below[at] * (1 - alpha)).concat(1);
  };
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      layers.push(parts(getComputedStyle(each).backgroundColor));
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const linear = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((each) => linear(each / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    const words = walker.currentNode.textContent.trim();
    const unread = ["SCRIPT", "STYLE", "OPTION"].includes(element.tagName);
    if (!words || unread || !element.checkVisibility() || element.closest(":disabled")) continue;
    const ink = parts(element instanceof SVGElement ? style.fill : style.color);
    const papers = [behind(element)];
    for (const fill of element.closest(".bar")?.querySelectorAll("i") ?? []) {
      const { backgroundColor, opacity } = getComputedStyle(fill);
      papers.push(over(parts(backgroundColor), papers[0], Number(opacity)));
    }
    for (const paper of papers) {
      found.push([contrast(over(ink, paper), paper), `${element.tagName} ${words.slice(0, 30)}`]);
    }
  }
  return found.sort((a, b) => a[0] - b[0]);
}

// Controls and pictures without a name that can be read aloud.
function unnamed() {
  const asked = "button, select, input, a, [role=img], [role=region]";
  return [...document.querySelectorAll(asked)].filter((element) => {
    const labels = [...element.labels ?? []].map((label) => label.textContent).join("");
    const name = element.getAttribute("aria-label") || element.textContent.trim() || labels;
    return !name && element.checkVisibility();
  }).map((element) => element.outerHTML.slice(0, 80));
}

// Milliseconds until the page is laid out anew: of scrolling by a step, of a sort by each column.
function times() {
  const time = (work) => {
    const start = performance.now();
    work();
    $("scroll").getBoundingClientRect();
    return performance.now() - start;
  };
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  const steps = Array.from({ length: 40 }, (_, step) => time(() => {
    $("scroll").scrollTop = 7000 * step;
    showRows();
  }));
  const heads = [...document.querySelectorAll("#table th button")];
  const sorts = heads.map((button) => time(() => button.click()));
  const search = time(() => { $("search").value = "9999"; filter(); });
  const found = list.rows.length;
  $("search").value = "";
  list.column = -1;
  filter();
  $("scroll").scrollTop = 31 * 5000;
  showRows();
  const rows = () => document.querySelectorAll("#table tbody tr").length;
  const shown = rows(), middle = $("table").textContent.includes("05000.jpg");
  dispatchEvent(new Event("beforeprint"));
  const printed = rows();
  dispatchEvent(new Event("afterprint"));
  const slowest = Math.max(...sorts);
  return { step: median(steps), sort: median(sorts), slowest, search, found, shown, middle, printed };
}
