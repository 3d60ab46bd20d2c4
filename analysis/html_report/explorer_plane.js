/* The plane of two latent dimensions, with the codes of the test examples and the current code.

   A click selects the nearest example, a drag and the arrow keys move the code. */
"use strict";

globalThis.explorerPlane = ({ payload, state, test, limits, select, move, described }) => {
  // Paul Tol's muted scheme, https://personal.sron.nl/~pault/, and a lighter first one in the dark.
  const COLOURS = ["#332288", "#88ccee", "#cc6677", "#117733", "#ddcc77", "#882255", "#44aa99",
    "#aa4499", "#999933", "#777777"];
  const DARK = ["#8f7fe8", "#88ccee", "#cc6677", "#3fa35f", "#ddcc77", "#c25a8d", "#44aa99",
    "#c76bc7", "#b5b54b", "#aaaaaa"];
  const SHAPES = ["circle", "square", "triangle"];
  const NEAR = 12;
  const canvas = element("canvas", { attributes: { "aria-hidden": "true" } });
  const pad = element("div", {
    className: "explorer-plane", tabIndex: 0, attributes: {
      role: "application",
      "aria-label": "Plane of two latent dimensions. Arrow keys move the code, with shift faster; "
        + `enter selects the nearest ${payload.split} ${payload.noun}, home goes back to its code.`,
    },
  }, canvas);
  const colouring = element("select", {}, ...test.labels.map(({ name }, k) => element("option", {
    value: k, textContent: name,
  })));
  const legend = element("ul", { className: "explorer-legend" });
  const box = element("div", {}, pad);
  if (test.labels.length > 1) box.append(element("label", {}, "Colour by ", colouring));
  box.append(legend);
  let path = [];
  let width = 0;
  let height = 0;

  const toX = (value) => {
    const [low, high] = limits[state.dimensions[0]];
    return ((value - low) / (high - low)) * width;
  };
  const toY = (value) => {
    const [low, high] = limits[state.dimensions[1]];
    return (1 - (value - low) / (high - low)) * height;
  };
  const fromPixels = (x, y) => {
    const [[left, right], [low, high]] = state.dimensions.map((k) => limits[k]);
    return [left + (x / width) * (right - left), low + (1 - y / height) * (high - low)];
  };
  const place = (code) => [toX(code[state.dimensions[0]]), toY(code[state.dimensions[1]])];

  function mark(context, x, y, shape, radius) {
    context.beginPath();
    if (shape === "circle") context.arc(x, y, radius, 0, 2 * Math.PI);
    else if (shape === "square") context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    else {
      context.moveTo(x, y - 1.3 * radius);
      context.lineTo(x + 1.2 * radius, y + radius);
      context.lineTo(x - 1.2 * radius, y + radius);
      context.closePath();
    }
  }

  /** The ink of the page, and colours that differ from its paper. */
  function style() {
    const ink = getComputedStyle(pad).color;
    const [red, green, blue] = (ink.match(/[\d.]+/g) || []).map(Number);
    const dark = 0.3 * red + 0.6 * green + 0.1 * blue > 128;
    return { ink, colours: dark ? DARK : COLOURS, dark };
  }

  /** The colour and the shape of each value of the chosen label. */
  function coding({ colours, dark }) {
    const chosen = test.labels[Number(colouring.value) || 0];
    if (!chosen) return { of: () => [colours[1], "circle"], entries: [] };
    if (chosen.classes) {
      const of = (value) => [colours[value % colours.length], SHAPES[value % SHAPES.length]];
      const present = [...new Set(chosen.values)].filter((v) => v >= 0).sort((a, b) => a - b);
      const entries = present.slice(0, 30).map((value) => [chosen.classes[value], ...of(value)]);
      return { of: (k) => (chosen.values[k] < 0 ? ["#888888", "circle"] : of(chosen.values[k])),
        entries };
    }
    const known = chosen.values.filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const of = (value) => {
      const t = high > low ? (value - low) / (high - low) : 0.5;
      // From blue to yellow, which are told apart with every form of colour blindness.
      return [`hsl(${225 - 170 * t} 70% ${(dark ? 45 : 30) + 25 * t}%)`, "circle"];
    };
    const entries = [0, 0.5, 1].map((t) => {
      const value = low + t * (high - low);
      return [numberText(value), ...of(value)];
    });
    return { of: (k) => (chosen.values[k] === null ? ["#888888", "circle"] : of(chosen.values[k])),
      entries };
  }

  function draw(points) {
    if (points) path = points;
    const context = canvas.getContext("2d");
    const look = style();
    const { of, entries } = coding(look);
    const scale = window.devicePixelRatio || 1;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px sans-serif";
    context.strokeStyle = context.fillStyle = look.ink;
    context.globalAlpha = 0.35;
    context.lineWidth = 1;
    line(context, [[toX(0), 0], [toX(0), height]]);
    line(context, [[0, toY(0)], [width, toY(0)]]);
    context.globalAlpha = 0.75;
    test.codes.forEach((code, k) => {
      const [colour, shape] = of(k);
      context.fillStyle = colour;
      mark(context, ...place(code), shape, 3);
      context.fill();
    });
    context.globalAlpha = 1;
    context.strokeStyle = context.fillStyle = look.ink;
    context.setLineDash([5, 4]);
    context.lineWidth = 1.5;
    line(context, path.map(place));
    context.setLineDash([]);
    [["A", path[0]], ["B", path[path.length - 1]]].forEach(([text, code]) => {
      const [x, y] = place(code);
      mark(context, x, y, "square", 4);
      context.stroke();
      context.fillText(text, x + 7, y - 5);
    });
    mark(context, ...place(test.codes[state.example]), "circle", 8);
    context.stroke();
    const [x, y] = place(state.z);
    context.lineWidth = 2.5;
    line(context, [[x - 11, y], [x + 11, y]]);
    line(context, [[x, y - 11], [x, y + 11]]);
    const [i, j] = state.dimensions;
    context.fillText(`z${i} from ${numberText(limits[i][0])} to ${numberText(limits[i][1])}`, 8,
      height - 8);
    context.fillText(`z${j} from ${numberText(limits[j][0])} to ${numberText(limits[j][1])}`, 8, 16);
    drawLegend(entries);
  }

  function line(context, points) {
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x, y));
    context.stroke();
  }

  function drawLegend(entries) {
    const key = JSON.stringify(entries);
    if (legend.dataset.key === key) return;
    legend.dataset.key = key;
    legend.replaceChildren(...entries.map(([text, colour, shape]) => {
      const swatch = element("canvas", {
        width: 14, height: 14, attributes: { "aria-hidden": "true" },
      });
      const context = swatch.getContext("2d");
      context.fillStyle = colour;
      mark(context, 7, 7, shape, 5);
      context.fill();
      return element("li", {}, swatch, ` ${text}`);
    }));
  }

  function resize() {
    const bounds = pad.getBoundingClientRect();
    if (!bounds.width || (bounds.width === width && bounds.height === height)) return;
    [width, height] = [bounds.width, bounds.height];
    const scale = window.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(width * scale), Math.round(height * scale)];
    if (state.z) draw();
  }

  /** The example nearest to a position, and its distance in pixels. */
  function nearest(x, y) {
    let best = [0, Infinity];
    test.codes.forEach((code, k) => {
      const [a, b] = place(code);
      const distance = Math.hypot(a - x, b - y);
      if (distance < best[1]) best = [k, distance];
    });
    return best;
  }

  const pixels = (event) => {
    const bounds = pad.getBoundingClientRect();
    return [event.clientX - bounds.left, event.clientY - bounds.top];
  };
  let pressed = null;
  let dragged = false;
  let latest = null;

  pad.addEventListener("pointerdown", (event) => {
    pad.setPointerCapture(event.pointerId);
    pressed = pixels(event);
    dragged = false;
  });
  pad.addEventListener("pointermove", (event) => {
    const [x, y] = pixels(event);
    if (!pressed) {
      const [k, distance] = nearest(x, y);
      const text = distance < NEAR ? described(test, k) : "";
      if (pad.title !== text) pad.title = text;
      return;
    }
    dragged = dragged || Math.hypot(x - pressed[0], y - pressed[1]) > 4;
    if (!dragged) return;
    // At most one decoded mean a frame.
    if (!latest) {
      requestAnimationFrame(() => {
        const position = latest;
        latest = null;
        move(...fromPixels(...position));
      });
    }
    latest = [x, y];
  });
  pad.addEventListener("pointerup", (event) => {
    if (!pressed) return;
    pressed = null;
    if (dragged) return;
    const [x, y] = pixels(event);
    const [k, distance] = nearest(x, y);
    if (distance < NEAR) select(k);
    else move(...fromPixels(x, y));
  });
  pad.addEventListener("pointercancel", () => { pressed = null; });
  pad.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in steps) {
      const far = event.shiftKey ? 0.1 : 0.02;
      const values = state.dimensions.map((k, axis) => state.z[k]
        + steps[event.key][axis] * far * (limits[k][1] - limits[k][0]));
      move(...values);
    } else if (event.key === "Enter") select(nearest(...place(state.z))[0]);
    else if (event.key === "Home") select(state.example);
    else return;
    event.preventDefault();
  });
  colouring.addEventListener("change", () => draw());
  return { box, draw, resize };
};
