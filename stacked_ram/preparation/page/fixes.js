// Buttons that note fixes of photos, and a download of these as fixes.csv.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("fix-data").textContent);
  const KINDS = ["drop", "relabel", "move"];
  const fixes = new Map(); // file -> {drop, relabel, move}: the text of the new value
  const controls = new Map(); // file -> functions that show its fixes, one per place on the page

  const of = (file) => fixes.get(file) || { drop: "", relabel: "", move: "" };
  const action = (kind, value) => (kind === "drop" ? "drop" : `${kind} to ${value}`);

  function rows() {
    const found = [];
    for (const [file, fix] of fixes)
      for (const kind of KINDS) if (fix[kind]) found.push([file, action(kind, fix[kind])]);
    return found;
  }

  function csv() {
    const quote = (text) => (/[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [["file", "action"], ...rows()].map((row) => row.map(quote).join(",") + "\n").join("");
  }

  function change(file, kind, value) {
    const fix = { ...of(file), [kind]: value };
    // A photo that is dropped needs no other fix.
    if (kind === "drop" && value) fix.relabel = fix.move = "";
    if (kind !== "drop" && value) fix.drop = "";
    if (KINDS.some((name) => fix[name])) fixes.set(file, fix);
    else fixes.delete(file);
    show([file]);
  }

  function show(files) {
    for (const file of files) for (const update of controls.get(file) || []) update();
    const found = rows();
    document.getElementById("fix-count").textContent =
      `${found.length} ${found.length === 1 ? "fix" : "fixes"}`;
    document.getElementById("fix-download").disabled = !found.length;
    document.getElementById("fix-clear").disabled = !found.length;
    document.getElementById("fix-list").textContent = csv();
  }

  function choice(kind, values, file) {
    const select = document.createElement("select");
    select.className = `fix-${kind}`;
    select.setAttribute("aria-label", `${kind} ${file}`);
    select.add(new Option(`${kind} to …`, ""));
    const fill = () => {
      // Only when it is needed: many photos times many classes would make a slow page.
      if (select.length > 2) return;
      const chosen = select.value;
      select.length = 1;
      for (const value of values) select.add(new Option(value, value));
      select.value = chosen;
    };
    select.addEventListener("pointerdown", fill);
    select.addEventListener("focus", fill);
    select.addEventListener("change", () => change(file, kind, select.value));
    const update = () => {
      const value = of(file)[kind];
      if (![...select.options].some((option) => option.value === value))
        select.add(new Option(value, value));
      select.value = value;
      select.classList.toggle("chosen", Boolean(value));
    };
    return [select, update];
  }

  function build(place) {
    const file = place.dataset.file;
    const drop = document.createElement("button");
    drop.type = "button";
    drop.className = "fix-drop";
    drop.textContent = "drop";
    drop.setAttribute("aria-label", `drop ${file}`);
    drop.addEventListener("click", () => change(file, "drop", of(file).drop ? "" : "drop"));
    const [relabel, showRelabel] = choice("relabel", data.classes, file);
    const [move, showMove] = choice("move", data.splits, file);
    const update = () => {
      drop.setAttribute("aria-pressed", String(Boolean(of(file).drop)));
      showRelabel();
      showMove();
    };
    place.append(drop, relabel, move);
    controls.set(file, [...(controls.get(file) || []), update]);
    update();
  }

  // The photos of a contact sheet: a click on one shows its buttons below the sheet.
  function openSheet(strip) {
    const files = JSON.parse(strip.dataset.files);
    document.getElementById("fix-hint").hidden = false;
    const below = document.createElement("div");
    strip.after(below);
    files.forEach((file, number) => {
      const tile = document.createElement("button");
      tile.type = "button";
      tile.className = "tile";
      tile.title = file;
      tile.setAttribute("aria-label", `fix ${file}`);
      tile.style.left = `${(100 * number) / files.length}%`;
      tile.style.width = `${100 / files.length}%`;
      tile.addEventListener("click", () => {
        const name = document.createElement("span");
        name.textContent = `${file} `;
        const place = document.createElement("div");
        place.className = "fix";
        place.dataset.file = file;
        place.append(name);
        below.replaceChildren(place);
        build(place);
      });
      strip.append(tile);
    });
  }

  for (const [file, kind, value] of data.fixes)
    fixes.set(file, { ...of(file), [kind]: value || "drop" });
  document.querySelectorAll(".fix[data-file]").forEach(build);
  document.querySelectorAll(".strip[data-files]").forEach(openSheet);
  document.getElementById("fix-download").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = "fixes.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
  document.getElementById("fix-clear").addEventListener("click", () => {
    const files = [...fixes.keys()];
    fixes.clear();
    show(files);
  });
  document.getElementById("fixes").hidden = false;
  show([]);
})();
