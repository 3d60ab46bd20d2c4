/* How the explorer shows an example: as an image, as series, or as a table of its elements.

   explorerViews(payload) gives `output(box)`, a view of a decoded mean; `input(box, edited)`, a view
   of an example that can be edited; and `small(values)`, an element that shows a neighbour. */
"use strict";

/** A new element with properties, attributes (in `attributes`) and children. */
function element(tag, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** A number with four digits. */
function numberText(value) {
  if (Number.isNaN(value)) return "missing";
  const size = Math.abs(value);
  if (size >= 1e5 || (size > 0 && size < 1e-3)) return value.toExponential(2).replaceAll("-", "−");
  return String(parseFloat(value.toPrecision(4))).replace("-", "−");
}

globalThis.explorerViews = (payload) => {
  const shape = payload.event_shape;
  const size = shape.reduce((a, b) => a * b, 1);
  const at = (limit, i) => (Array.isArray(limit) ? limit[i] : limit);
  /** A value as a share of its range. */
  const share = (value, i) => {
    const [low, high] = [at(payload.low, i), at(payload.high, i)];
    return high > low ? Math.min(Math.max((value - low) / (high - low), 0), 1) : 0.5;
  };
  const name = (i) => (payload.named ? payload.elements[i] : `element ${i}`);
  /** The colour of an element's text, in which its lines are drawn. */
  const inkOf = (canvas) => getComputedStyle(canvas).color;

  // ---- images -----------------------------------------------------------------------------------

  const [height, width] = shape.slice(-2);
  const inColour = shape.length === 3 && shape[0] === 3;
  const tiles = inColour ? 1 : size / (height * width);
  const columns = Math.ceil(Math.sqrt(tiles));
  const full = { width: columns * width, height: Math.ceil(tiles / columns) * height };

  /** The first element at a pixel of the picture, in which channels are side by side. */
  function elementAt(column, row) {
    const tile = Math.floor(row / height) * columns + Math.floor(column / width);
    return tile < tiles ? (tile * height + (row % height)) * width + (column % width) : -1;
  }

  function paint(canvas, values) {
    const image = new ImageData(full.width, full.height);
    for (let row = 0; row < full.height; row++) {
      for (let column = 0; column < full.width; column++) {
        const i = elementAt(column, row);
        const place = 4 * (row * full.width + column);
        if (i < 0) continue;
        for (let k = 0; k < 3; k++) {
          const j = inColour ? i + k * height * width : i;
          // A missing value is orange.
          image.data[place + k] = Number.isNaN(values[j]) ? [230, 159, 0][k]
            : 255 * share(values[j], j);
        }
        image.data[place + 3] = 255;
      }
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  const picture = (label, kind = "explorer-image") => element("canvas", {
    ...full, className: kind, attributes: { role: "img", "aria-label": label },
  });

  function imageOutput(box) {
    const canvas = picture("the mean of p(x | z) at the current code");
    box.append(canvas);
    return { show: (mean) => paint(canvas, mean) };
  }

  /** A picture that can be drawn on with a pointer or with the keyboard. */
  function imageInput(box, edited) {
    const canvas = picture(`the input ${payload.noun}`);
    const cursor = element("span", { className: "explorer-cursor" });
    const pad = element("div", { className: "explorer-pad" }, canvas, cursor);
    box.append(pad);
    let values = new Float64Array(size);
    const position = { column: full.width >> 1, row: full.height >> 1 };
    if (!edited) return { show: (x) => { values = x; paint(canvas, x); } };

    const tool = element("select", {}, element("option", { value: "draw", textContent: "draw" }),
      element("option", { value: "erase", textContent: "erase" }));
    const brush = element("input", {
      type: "range", min: 0, max: 4, step: 0.5, value: Math.min(width, height) / 20,
    });
    const button = (text, action) => element("button", {
      type: "button", textContent: text, onclick: action,
    });
    box.append(element("div", { className: "explorer-tools" },
      element("label", {}, "Tool ", tool), element("label", {}, "Brush ", brush),
      button("Clear", () => {
        values = values.map((_, i) => at(payload.low, i));
        edited(values);
      })));
    Object.assign(pad, { tabIndex: 0 });
    pad.setAttribute("role", "application");
    pad.setAttribute("aria-label", `Input ${payload.noun}, ${full.width} by ${full.height} pixels. `
      + "Arrow keys move the cursor, space draws or erases, D and E choose the tool.");

    function stroke(column, row) {
      const radius = Number(brush.value);
      values = values.slice();
      for (let y = Math.ceil(row - radius); y <= row + radius; y++) {
        for (let x = Math.ceil(column - radius); x <= column + radius; x++) {
          const inside = x >= 0 && y >= 0 && x < full.width && y < full.height
            && (x - column) ** 2 + (y - row) ** 2 <= radius ** 2;
          const i = inside ? elementAt(x, y) : -1;
          for (let k = 0; i >= 0 && k < (inColour ? 3 : 1); k++) {
            const j = i + k * height * width;
            values[j] = at(tool.value === "draw" ? payload.high : payload.low, j);
          }
        }
      }
    }

    function place() {
      cursor.style.left = `${(100 * position.column) / full.width}%`;
      cursor.style.top = `${(100 * position.row) / full.height}%`;
      cursor.style.width = `${100 / full.width}%`;
      cursor.style.height = `${100 / full.height}%`;
    }

    function point(event) {
      const bounds = canvas.getBoundingClientRect();
      position.column = Math.floor(((event.clientX - bounds.left) / bounds.width) * full.width);
      position.row = Math.floor(((event.clientY - bounds.top) / bounds.height) * full.height);
      stroke(position.column, position.row);
      place();
      edited(values);
    }
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      point(event);
    });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
    pad.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const chosen = { d: "draw", e: "erase" }[event.key.toLowerCase()];
      if (event.key in moves) {
        const [right, down] = moves[event.key];
        position.column = Math.min(Math.max(position.column + right, 0), full.width - 1);
        position.row = Math.min(Math.max(position.row + down, 0), full.height - 1);
        place();
      } else if (event.key === " ") {
        stroke(position.column, position.row);
        edited(values);
      } else if (chosen && !event.ctrlKey && !event.metaKey && !event.altKey) {
        tool.value = chosen;
      } else return;
      event.preventDefault();
    });
    place();
    return { show: (x) => { values = x; paint(canvas, x); } };
  }

  // ---- series -----------------------------------------------------------------------------------

  function drawSeries(canvas, lines) {
    const length = shape[shape.length - 1];
    const channels = size / length;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const band = canvas.height / channels;
    for (const { values, colour, thick } of lines) {
      context.strokeStyle = colour;
      context.lineWidth = thick;
      for (let channel = 0; channel < channels; channel++) {
        context.beginPath();
        for (let i = 0; i < length; i++) {
          const j = channel * length + i;
          const y = band * (channel + 0.95 - 0.9 * share(values[j], j));
          context.lineTo((i / Math.max(length - 1, 1)) * canvas.width, y);
        }
        context.stroke();
      }
    }
  }

  const sheet = (label, wide, high, kind) => element("canvas", {
    width: wide, height: high, className: kind, attributes: { role: "img", "aria-label": label },
  });

  function seriesOutput(box) {
    const canvas = sheet("the mean of p(x | z) at the current code, over the input", 560, 320,
      "explorer-series explorer-mean");
    box.append(canvas);
    return {
      show: (mean, input) => drawSeries(canvas, [
        { values: input, colour: "#8a8a8a", thick: 3 },
        { values: mean, colour: inkOf(canvas), thick: 2 },
      ]),
    };
  }

  function seriesInput(box) {
    const canvas = sheet(`the input ${payload.noun}`, 560, 320, "explorer-series");
    box.append(canvas);
    return { show: (x) => drawSeries(canvas, [{ values: x, colour: "#8a8a8a", thick: 2 }]) };
  }

  // ---- tables -----------------------------------------------------------------------------------

  /** Standard deviations from the data's mean. */
  const deviation = (value, i) => (value - payload.center[i]) / payload.spread[i];

  /** The elements to list, the most remarkable first: of a table all, in their order. */
  function listed(values, order, most) {
    const all = Array.from(values, (_, i) => i);
    if (!order) return all;
    const by = order === "value" ? (i) => values[i] : (i) => Math.abs(deviation(values[i], i));
    const key = all.map((i) => (Number.isNaN(by(i)) ? -Infinity : by(i)));
    return all.sort((i, j) => key[j] - key[i]).slice(0, most);
  }

  function tableOutput(box, edited) {
    const long = payload.view === "largest";
    const order = element("select", {},
      element("option", { value: "value", textContent: "largest values" }),
      element("option", {
        value: "difference", textContent: "largest difference from the data's mean",
      }));
    order.value = payload.order;
    if (long) box.append(element("label", {}, "Elements with the ", order));
    const body = element("tbody");
    const bars = long ? "mean as a bar, input as a line" : "mean in the data's range, input as a line";
    const cells = ["element", "input", "mean of p(x | z)", bars];
    box.append(element("div", { className: "explorer-scroll", tabIndex: 0, attributes: {
      role: "group", "aria-label": "Elements of the input and of the mean",
    } }, element("table", { className: "explorer-table" },
      element("thead", {}, element("tr", {}, ...cells.map((text) => element("th", {
        textContent: text, scope: "col",
      })))), body)));
    let shown = [null, null];
    const rows = [];

    function row(k) {
      const field = element("input", { type: "number", step: "any" });
      field.addEventListener("change", () => {
        const values = Float64Array.from(shown[1]);
        values[rows[k].index] = field.value === "" ? NaN : Number(field.value);
        edited(values);
      });
      const made = {
        index: -1, field, head: element("th", { scope: "row" }),
        plain: element("td"), mean: element("td"), bar: element("span", { className: "explorer-bar" }),
        mark: element("span", { className: "explorer-mark" }),
      };
      const range = element("div", { className: "explorer-range" }, made.bar, made.mark);
      if (edited) made.plain.append(field);
      body.append(element("tr", {}, made.head, made.plain, made.mean,
        element("td", {}, range)));
      return made;
    }

    function show(mean, input) {
      shown = [mean, input];
      const indices = listed(mean, long && order.value, 20);
      // Large counts would hide the differences of all others in bars of the data's range.
      const most = Math.max(...indices.flatMap((i) => [mean[i], input[i] || 0]));
      const part = (value, i) => (long && payload.order === "value" ? value / most : share(value, i));
      while (rows.length < indices.length) rows.push(row(rows.length));
      indices.forEach((i, k) => {
        const each = rows[k];
        each.index = i;
        each.head.textContent = name(i);
        if (!edited) each.plain.textContent = numberText(input[i]);
        else if (each.field !== document.activeElement) {
          each.field.value = Number.isNaN(input[i]) ? "" : parseFloat(input[i].toPrecision(7));
        }
        each.field.setAttribute("aria-label", `${name(i)} of the input`);
        each.mean.textContent = numberText(mean[i]);
        each.bar.style.width = `${100 * part(mean[i], i)}%`;
        each.mark.style.left = `${100 * part(input[i], i)}%`;
        each.mark.hidden = Number.isNaN(input[i]);
      });
    }
    order.addEventListener("change", () => show(...shown));
    return { show };
  }

  // ---- neighbours -------------------------------------------------------------------------------

  function small(values, label) {
    if (payload.view === "image") {
      const canvas = picture(label, "explorer-small");
      paint(canvas, values);
      return canvas;
    }
    if (payload.view === "series") {
      const canvas = sheet(label, 160, 80, "explorer-small explorer-smooth");
      drawSeries(canvas, [{ values, colour: inkOf(document.getElementById("explorer")), thick: 1.5 }]);
      return canvas;
    }
    const chosen = listed(values, payload.order, 6);
    return element("p", {
      className: "explorer-words",
      textContent: chosen.map((i) => `${name(i)} ${numberText(values[i])}`).join(", "),
    });
  }

  const views = {
    image: [imageOutput, imageInput],
    series: [seriesOutput, seriesInput],
    // One table has both.
    table: [tableOutput, null],
    largest: [tableOutput, null],
  };
  const [output, input] = views[payload.view];
  return { output, input, small, size };
};
