// Shows one test image in every row of a comparison: nats, gains, reconstruction and samples.
// What is known stands in the page as JSON, and names enter the document as texts alone.
"use strict";

(() => {
  const byId = (name) => document.getElementById(name);
  const section = byId("explorer");
  const data = JSON.parse(byId("explorer-data").textContent);
  const [height, width] = data.shape;
  const strip = byId("strip");
  const controls = [...section.querySelectorAll("select")];
  const chosen = Object.fromEntries(controls.map((control) => [control.id, control]));
  const starts = Object.fromEntries(controls.map((control) => [control.id, control.value]));
  const TILES = 200; // made at once, of perhaps tens of thousands

  // A PNG file with the pictures of some images, `each` of every one; decoded when first needed.
  class Sheet {
    constructor({ images, each, png }) {
      this.each = each;
      this.png = png;
      this.ranks = new Map(images.map((image, rank) => [image, rank]));
    }

    has(image) {
      return this.ranks.has(image);
    }

    // The pictures of an image, enlarged.
    pictures(image, least, words) {
      return Array.from({ length: this.each }, (_, nth) => {
        const canvas = make("canvas", { width, height, role: "img", "aria-label": words });
        enlarge(canvas, least);
        this.paint(canvas, this.ranks.get(image) * this.each + nth);
        return canvas;
      });
    }

    async paint(canvas, tile) {
      this.decoded ??= decode(this.png);
      const whole = await this.decoded;
      const columns = whole.naturalWidth / width;
      const left = (tile % columns) * width;
      const top = Math.floor(tile / columns) * height;
      const context = canvas.getContext("2d");
      context.drawImage(whole, left, top, width, height, 0, 0, width, height);
    }
  }

  async function decode(png) {
    const whole = new Image();
    whole.src = `data:image/png;base64,${png}`;
    await whole.decode();
    return whole;
  }

  const read = (sheet) => sheet && new Sheet(sheet);
  const originals = read(data.originals);
  const rows = data.rows.map((row) => ({
    ...row,
    mean: row.nats.reduce((sum, nats) => sum + nats, 0) / row.nats.length,
    gains: read(row.gains),
    reconstructions: read(row.reconstructions),
    samples: read(row.samples),
  }));
  const base = rows[data.baseline];
  const most = rows.flatMap((row) => row.nats).reduce((a, b) => Math.max(a, b), 0);

  let listed = []; // numbers of the images in the strip, in its order
  let picked = -1;

  function make(tag, attributes, ...content) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...content);
    return made;
  }

  // By a whole number, to at least `least` pixels of height or width.
  function enlarge(shown, least) {
    const scale = Math.ceil(least / Math.max(height, width));
    shown.style.width = `${scale * width}px`;
    shown.style.aspectRatio = `${width} / ${height}`;
  }

  function number(value, decimals) {
    const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
    return value.toLocaleString("en-US", digits).replace("-", "\u2212");
  }

  function gain(row, image) {
    return base.nats[image] - row.nats[image];
  }

  function isSampled(image) {
    return rows.some((row) => row.samples?.has(image));
  }

  // What images are sorted by, as a function of one.
  function order() {
    const [name, row] = chosen.sort.value.split("-");
    if (name === "nats") return (image) => rows[row].nats[image];
    if (name === "gain") return (image) => gain(rows[row], image);
    return (image) => data[name][image];
  }

  function isMeasure() {
    return !["index", "label"].includes(chosen.sort.value);
  }

  function isShown(image) {
    const label = chosen.label.value;
    if (label !== "" && data.label[image] !== Number(label)) return false;
    if (chosen.shown.value === "pictured") return originals.has(image);
    return chosen.shown.value !== "sampled" || isSampled(image);
  }

  // Puts the strip in order and picks from it.
  function list(wanted) {
    const value = order();
    const sign = isMeasure() && chosen.direction.value === "falling" ? -1 : 1;
    chosen.direction.disabled = !isMeasure();
    listed = data.index.map((_, image) => image).filter(isShown);
    listed.sort((a, b) => sign * (value(a) - value(b)) || a - b);
    strip.replaceChildren();
    pick(listed.includes(wanted) ? wanted : listed[0]);
  }

  function extend(least) {
    const made = strip.childElementCount;
    if (made < least) strip.append(...listed.slice(made, Math.max(made + TILES, least)).map(tile));
  }

  function tile(image) {
    const value = order()(image);
    const note = isMeasure() ? number(value, value < 1000 ? 1 : 0) : data[chosen.sort.value][image];
    const made = make("div", { role: "option", id: `image-${image}`, "aria-selected": false });
    made.setAttribute("aria-label", `${title(image)}, ${labelled(image)}`);
    const kind = isSampled(image) ? "sampled" : "";
    made.append(...face(image, 40), make("span", { class: kind }, note));
    made.addEventListener("click", () => pick(image));
    return made;
  }

  // The picture of a test image, or its number where none was kept.
  function face(image, least) {
    if (originals.has(image)) return originals.pictures(image, least, title(image));
    const blank = make("span", { class: "blank" }, String(data.index[image]));
    enlarge(blank, least);
    return [blank];
  }

  function title(image) {
    return `Test image ${data.index[image]}`;
  }

  function labelled(image) {
    return data.label[image] < 0 ? "no label" : `label ${data.label[image]}`;
  }

  function pick(image) {
    const place = listed.indexOf(image);
    byId("picked").hidden = place < 0;
    byId("place").textContent = `${place + 1} of ${listed.length}`;
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place + 1 >= listed.length;
    picked = place < 0 ? -1 : image;
    if (place < 0) return;
    extend(place + TILES / 2);
    mark(image);
    byId("original").replaceChildren(...face(image, 112));
    byId("which").textContent = title(image);
    byId("about").textContent = labelled(image);
    section.querySelectorAll("tbody tr").forEach((line, row) => {
      for (const cell of line.querySelectorAll("td")) {
        cell.replaceChildren(...CELLS[cell.dataset.part](rows[row], image));
      }
    });
    link();
  }

  function mark(image) {
    strip.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", false);
    const made = byId(`image-${image}`);
    made.setAttribute("aria-selected", true);
    strip.setAttribute("aria-activedescendant", made.id);
    // Not scrollIntoView, which would move the page as well.
    const [top, bottom] = [made.offsetTop, made.offsetTop + made.offsetHeight];
    if (top < strip.scrollTop) strip.scrollTop = top - 4;
    const least = bottom - strip.clientHeight;
    if (least > strip.scrollTop) strip.scrollTop = least + 4;
  }

  const CELLS = {
    nats(row, image) {
      const filled = make("span", {});
      filled.style.width = `${(100 * row.nats[image]) / most}%`;
      const mean = make("i", {});
      mean.style.left = `${(100 * row.mean) / most}%`;
      return [number(row.nats[image], 2), make("div", { class: "bar" }, filled, mean)];
    },
    gains(row, image) {
      if (row === base) return [none("\u2014")];
      return [number(gain(row, image), 2), ...found(row.gains, image, `gains of ${row.name}`)];
    },
    reconstructions(row, image) {
      return found(row.reconstructions, image, `reconstruction from ${row.name}`);
    },
    samples(row, image) {
      const pictures = found(row.samples, image, `sample given ${row.name}`);
      return pictures.length ? pictures : [none("not sampled")];
    },
  };

  function found(sheet, image, words) {
    if (!sheet?.has(image)) return [];
    return [make("div", { class: "pictures" }, ...sheet.pictures(image, 52, words))];
  }

  function none(words) {
    return make("span", { class: "none" }, words);
  }

  function step(by) {
    const place = listed.indexOf(picked) + by;
    if (listed.length) pick(listed[Math.min(Math.max(place, 0), listed.length - 1)]);
  }

  // Keeps the pick and what differs from the start in the address, so that it can be sent.
  function link() {
    const state = new URLSearchParams({ image: data.index[picked] });
    for (const control of controls) {
      if (control.value !== starts[control.id]) state.set(control.id, control.value);
    }
    if (`#${state}` !== location.hash) history.replaceState(null, "", `#${state}`);
  }

  function follow() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const control of controls) {
      const wanted = state.get(control.id) ?? starts[control.id];
      if ([...control.options].some((option) => option.value === wanted)) control.value = wanted;
    }
    const asked = data.index.findIndex((index) => String(index) === state.get("image"));
    if (asked >= 0 && !isShown(asked)) chosen.shown.value = "all";
    list(asked >= 0 || state.has("sort") ? asked : data.originals.images[0]);
  }

  function columns() {
    const tops = [...strip.children].map((made) => made.offsetTop);
    return Math.max(1, tops.lastIndexOf(tops[0]) + 1);
  }

  const STEPS = {
    ArrowLeft: () => -1,
    ArrowRight: () => 1,
    ArrowUp: () => -columns(),
    ArrowDown: columns,
    Home: () => -listed.length,
    End: () => listed.length,
  };

  // Left and right also while nothing has the focus; the others move the page then.
  document.addEventListener("keydown", (event) => {
    const isOurs = event.target === strip || strip.contains(event.target);
    const isFree = event.target === document.body && /Left|Right/.test(event.key);
    const hasModifier = event.altKey || event.ctrlKey || event.metaKey || event.shiftKey;
    if (!(event.key in STEPS) || !(isOurs || isFree) || hasModifier) return;
    event.preventDefault();
    step(STEPS[event.key]());
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  strip.addEventListener("scroll", () => {
    const rest = strip.scrollHeight - strip.scrollTop - strip.clientHeight;
    if (rest < strip.clientHeight) extend(strip.childElementCount + 1);
  });
  for (const control of controls) {
    const isFilter = ["label", "shown"].includes(control.id);
    control.addEventListener("change", () => list(isFilter ? picked : -1));
  }
  window.addEventListener("hashchange", follow);
  section.hidden = false;
  follow();
})();
