/* The latent explorer: a point in two dimensions of z, what the decoder makes of it, an input that
   can be edited, the nearest training examples, and a path between two codes.

   window.explorer has decode(z), encode(x), state, and ready, a promise. */
"use strict";

(() => {
  const section = document.getElementById("explorer");
  const source = document.getElementById("explorer-data");
  if (!section || !source) return;
  const root = document.getElementById("explorer-root") || section;
  const payload = JSON.parse(source.textContent);
  // Of the range of each element: float16 weights are within it.
  const TOLERANCE = 1e-2;
  const NEIGHBOURS = 6;
  const FRAMES = ["image", "series"].includes(payload.view) ? 9 : 5;
  const state = { z: null, x: null, mean: null, dimensions: [0, 0], example: 0, edited: false,
    start: null, end: null, path: "straight", position: 0, neighbours: [], milliseconds: 0, error: null };
  const explorer = { state, decode: null, encode: null, ready: null };
  window.explorer = explorer;

  function fail(text) {
    state.error = text;
    root.replaceChildren(element("p", { className: "explorer-error", textContent: text }));
  }

  // ---- data -------------------------------------------------------------------------------------

  /** Rows of stored numbers, each `stored * step + least`. */
  async function rowsOf({ stored, least = 0, step = 1 }) {
    const values = await graphInterpreter.decode(stored);
    const width = stored.shape.slice(1).reduce((a, b) => a * b, 1);
    return Array.from({ length: stored.shape[0] }, (_, row) => Float64Array.from(
      values.subarray(row * width, (row + 1) * width), (value) => value * step + least));
  }

  async function examplesOf(part) {
    const { inputs, least, step } = part;
    return {
      ...part,
      codes: await rowsOf({ stored: part.codes }),
      inputs: await rowsOf({ stored: inputs, least, step }),
    };
  }

  /** The largest difference of a function from PyTorch's results, as a share of the range. */
  async function difference(run, inputs, expected, range) {
    const [given, wanted] = [await rowsOf({ stored: inputs }), await rowsOf({ stored: expected })];
    let worst = 0;
    given.forEach((row, k) => run(row).forEach((value, i) => {
      const error = Math.abs(value - wanted[k][i]);
      const unit = Math.max(range(i), Math.abs(wanted[k][i]), 1e-30);
      // Not a number is a difference, unless both are missing.
      if (!(error === 0 || Object.is(value, wanted[k][i]))) {
        worst = Math.max(worst, Number.isNaN(error) ? Infinity : error / unit);
      }
    }));
    return worst;
  }

  async function compiled(graph, inputs, expected, range, part) {
    const run = await graphInterpreter.compile(graph);
    const worst = await difference(run, inputs, expected, range);
    if (worst <= TOLERANCE) return run;
    throw new Error(`the ${part} in this page differs from the trained one by `
      + `${(100 * worst).toPrecision(2)} % of the range`);
  }

  const at = (limit, i) => (Array.isArray(limit) ? limit[i] : limit);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

  // ---- the space of codes -----------------------------------------------------------------------

  /** The point of the prior's support at or near a point. */
  function inSupport(z) {
    if (payload.latent === "positive") return z.map((value) => Math.max(value, 1e-6));
    if (payload.latent === "unit") return z.map((value) => Math.min(Math.max(value, 0), 1));
    if (payload.latent === "simplex") {
      const shares = z.map((value) => Math.max(value, 0));
      const total = shares.reduce((a, b) => a + b, 0);
      return shares.map((value) => (total > 0 ? value / total : 1 / z.length));
    }
    if (payload.latent === "sphere") {
      const length = Math.hypot(...z);
      return z.map((value, k) => (length > 0 ? value / length : Number(k === 0)));
    }
    return z;
  }

  /** A code with two coordinates replaced; on a sphere or a simplex the others make room. */
  function moved(z, chosen, values) {
    const result = Float64Array.from(z);
    chosen.forEach((k, axis) => { result[k] = values[axis]; });
    const power = { simplex: 1, sphere: 2 }[payload.latent];
    if (power) {
      const size = (ks) => ks.reduce((sum, k) => sum + Math.abs(result[k]) ** power, 0);
      const others = [...result.keys()].filter((k) => !chosen.includes(k));
      const room = Math.max(1 - size([...new Set(chosen)]), 0);
      const scale = size(others) > 0 ? (room / size(others)) ** (1 / power) : 0;
      for (const k of others) result[k] *= scale;
    }
    return inSupport(result);
  }

  /** The point at t of the straight or the spherical path between two codes. */
  function between(a, b, t) {
    const straight = inSupport(a.map((value, k) => (1 - t) * value + t * b[k]));
    if (state.path === "straight") return straight;
    const cosine = dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
    const angle = Math.acos(Math.min(Math.max(cosine, -1), 1));
    // Codes in one direction, or in opposite ones, have no single arc.
    if (!(Math.sin(angle) > 1e-6)) return straight;
    const [p, q] = [Math.sin((1 - t) * angle), Math.sin(t * angle)].map((s) => s / Math.sin(angle));
    return inSupport(a.map((value, k) => p * value + q * b[k]));
  }

  // ---- the page ---------------------------------------------------------------------------------

  async function start() {
    if (payload.unavailable) {
      fail(`There is no explorer: ${payload.unavailable}`);
      return;
    }
    const [test, train] = [await examplesOf(payload.test), await examplesOf(payload.train)];
    const { check } = payload;
    const latent = test.codes[0].length;
    const limits = Array.from({ length: latent }, (_, k) => {
      const values = [...test.codes, ...train.codes].map((code) => code[k]);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const margin = 0.08 * (high - low) || 1;
      const bounds = { positive: [0, Infinity], unit: [0, 1], simplex: [0, 1], sphere: [-1, 1] };
      const [least, most] = bounds[payload.latent] || [-Infinity, Infinity];
      return [Math.max(low - margin, least), Math.min(high + margin, most)];
    });
    const spread = Math.max(...limits.map(([low, high]) => high - low));
    const decode = await compiled(payload.decoder, check.codes, check.means,
      (i) => at(payload.high, i) - at(payload.low, i), "decoder");
    explorer.decode = decode;
    let reason = payload.encoder.unavailable;
    if (!reason) {
      explorer.encode = await compiled(payload.encoder, check.inputs, check.encoded, () => spread,
        "encoder").catch((error) => { reason = error.message; return null; });
    }
    build(test, train, limits, reason);
  }

  function build(test, train, limits, reason) {
    const latent = limits.length;
    const views = explorerViews(payload);
    const noun = payload.noun;
    const order = payload.dimensions;
    state.dimensions = [order[0], order[Math.min(1, latent - 1)]];
    /** The first label of an example; empty without one. */
    function label(part, k) {
      if (!part.labels.length) return "";
      const { name, values, classes } = part.labels[0];
      const value = values[k];
      if (value === null || (classes && value < 0)) return "no label";
      return `${name} ${classes ? classes[value] : numberText(value)}`;
    }
    const called = (part, k) => part.names?.[k] ?? `${noun} ${part.rows[k]}`;
    const described = (part, k) => [called(part, k), label(part, k)].filter(Boolean).join(", ");

    let number = null;
    let sliders = [];
    let framesOf = null;
    const other = test.codes.findIndex((_, k) => label(test, k) !== label(test, 0));
    [state.start, state.end] = [test.codes[0], test.codes[other < 0 ? test.codes.length - 1 : other]];
    if (payload.latent === "sphere") state.path = "spherical";

    // The panels.
    const panel = (title, ...children) => {
      const made = element("div", { className: "explorer-panel" },
        element("h3", { textContent: title }), ...children);
      panels.append(made);
      return made;
    };
    const status = element("p", { className: "explorer-status", attributes: { role: "status" } });
    const panels = element("div", { className: "explorer-panels" });
    root.replaceChildren(status, panels);
    const plane = explorerPlane({ payload, state, test, limits, select, move, described });
    panel("Codes", plane.box, controls());
    const output = views.output(panel("Mean of p(x | z)"), views.input ? null : editing());
    const input = views.input && views.input(panel(`Input ${noun}`), editing());
    if (reason) {
      panels.lastChild.append(element("p", { textContent: `The input cannot be edited: ${reason}` }));
    }
    const about = element("p", { className: "explorer-about" });
    panels.lastChild.append(about);
    const near = element("ul", { className: "explorer-neighbours" });
    panel(`Nearest of ${train.codes.length} training ${noun}s`, near);
    const strip = element("ol", { className: "explorer-neighbours" });
    panel("Between two codes", pathControls(), strip);

    function editing() {
      return explorer.encode && ((x) => {
        state.x = x;
        state.edited = true;
        setCode(explorer.encode(x));
      });
    }

    // Controls of the plane.
    function controls() {
      const option = (k) => element("option", { value: k, textContent: `z${k}` });
      const choices = ["Horizontal", "Vertical"].map((title, axis) => {
        const choice = element("select", {}, ...order.map(option));
        choice.value = state.dimensions[axis];
        const slider = element("input", { type: "range", step: "any" });
        choice.addEventListener("change", () => {
          const chosen = Number(choice.value);
          // The axes change places rather than show the same dimension.
          if (chosen === state.dimensions[1 - axis]) {
            state.dimensions[1 - axis] = state.dimensions[axis];
          }
          state.dimensions[axis] = chosen;
          choices.forEach((each, other) => { each.choice.value = state.dimensions[other]; });
          update();
        });
        slider.addEventListener("input", () => {
          const values = state.dimensions.map((k) => state.z[k]);
          values[axis] = Number(slider.value);
          move(...values);
        });
        return { title, choice, slider };
      });
      sliders = choices.map(({ slider }) => slider);
      number = element("input", {
        type: "number", min: 0, max: test.codes.length - 1, value: 0, step: 1,
      });
      number.addEventListener("change", () => select(Number(number.value)));
      return element("div", { className: "explorer-tools" },
        ...choices.flatMap(({ title, choice, slider }) => [
          element("label", {}, `${title} dimension `, choice),
          element("label", {}, `${title} value `, slider),
        ]),
        element("label", {}, `${payload.split} ${noun}, 0 to ${test.codes.length - 1} `, number),
        element("button", {
          type: "button", textContent: "Back to its code", onclick: () => select(state.example),
        }));
    }

    function pathControls() {
      const end = (name, title) => element("button", {
        type: "button", textContent: title, onclick: () => {
          state[name] = state.z;
          update();
        },
      });
      const kinds = ["straight", "spherical"].map((kind) => element("label", {},
        element("input", {
          type: "radio", name: "explorer-path", value: kind, checked: kind === state.path,
          onchange: () => { state.path = kind; update(); },
        }), ` ${kind}`));
      const position = element("input", { type: "range", min: 0, max: 1, step: 0.01, value: 0 });
      position.addEventListener("input", () => {
        state.position = Number(position.value);
        setCode(between(state.start, state.end, state.position));
      });
      return element("div", { className: "explorer-tools" },
        end("start", "Start at the current code"), end("end", "End at the current code"),
        element("fieldset", {}, element("legend", { textContent: "Path" }), ...kinds),
        element("label", {}, "Position on the path ", position));
    }

    // Moves.
    function select(k) {
      const n = test.codes.length;
      state.example = Number.isInteger(k) ? Math.min(Math.max(k, 0), n - 1) : state.example;
      state.x = test.inputs[state.example];
      state.edited = false;
      number.value = state.example;
      setCode(test.codes[state.example]);
    }

    function move(...values) {
      const [i, j] = state.dimensions;
      // Of a code of one dimension both axes show the same coordinate.
      const own = i === j ? values.map(() => values.find((v) => v !== state.z[i]) ?? state.z[i])
        : values;
      setCode(moved(state.z, state.dimensions, own));
    }

    function setCode(z) {
      state.z = Float64Array.from(z);
      update();
    }

    function update() {
      const before = performance.now();
      state.mean = explorer.decode(state.z);
      state.milliseconds = performance.now() - before;
      state.neighbours = train.codes
        .map((code, k) => [Math.sqrt(code.reduce((sum, v, d) => sum + (v - state.z[d]) ** 2, 0)), k])
        .sort(([a], [b]) => a - b).slice(0, NEIGHBOURS)
        .map(([distance, k]) => ({ k, distance, text: described(train, k) }));
      draw();
    }

    function draw() {
      output.show(state.mean, state.x);
      if (input) input.show(state.x);
      plane.draw(Array.from({ length: 33 }, (_, k) => between(state.start, state.end, k / 32)));
      about.textContent = `The input: ${payload.split} ${described(test, state.example)}`
        + `${state.edited ? ", edited" : ""}.`;
      near.replaceChildren(...state.neighbours.map(({ k, distance, text }) => {
        const said = `${text}, at distance ${numberText(distance)}`;
        return element("li", {}, views.small(train.inputs[k], said),
          element("span", { textContent: said }));
      }));
      drawFrames();
      state.dimensions.forEach((k, axis) => {
        const slider = sliders[axis];
        [slider.min, slider.max] = limits[k];
        slider.value = state.z[k];
        slider.setAttribute("aria-valuetext", `z${k} is ${numberText(state.z[k])}`);
      });
      announce();
    }

    /** The means on the path, decoded anew if it has changed. */
    function drawFrames() {
      const key = [state.start, state.end, state.path];
      if (framesOf && key.every((part, k) => part === framesOf[k])) return;
      framesOf = key;
      strip.replaceChildren(...Array.from({ length: FRAMES }, (_, k) => {
        const t = k / (FRAMES - 1);
        const mean = explorer.decode(between(state.start, state.end, t));
        return element("li", {}, views.small(mean, `the mean at ${t.toFixed(2)} of the path`));
      }));
    }

    let waiting = null;

    /** Say where the point is, once it rests. */
    function announce() {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        const [first] = state.neighbours;
        const where = [...new Set(state.dimensions)].map((k) => `z${k} = ${numberText(state.z[k])}`);
        const origin = state.edited ? `the edited ${noun}`
          : `${payload.split} ${called(test, state.example)}`;
        status.textContent = `${where.join(", ")}, from the code of ${origin}. The nearest training ${noun} is `
          + `${first.text}, at distance ${numberText(first.distance)}.`;
      }, 150);
    }

    plane.resize();
    select(0);
    new ResizeObserver(() => plane.resize()).observe(plane.box);
    document.addEventListener("themechange", draw);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  explorer.ready = start().catch((error) => {
    fail(`The explorer shows no pictures: ${error.message}.`);
  });
})();
