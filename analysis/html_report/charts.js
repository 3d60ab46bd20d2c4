"use strict";
// Draws the charts of the page with Vega-Embed: values at a point are shown under the pointer, and
// by the arrow keys in a focused chart. Expressions are interpreted, which needs no unsafe-eval.
(() => {
  const text = "var(--chart-text)";
  const grid = "var(--chart-grid)";
  const font = "system-ui, sans-serif";
  const labels = { labelColor: text, titleColor: text, labelFont: font, titleFont: font };
  const config = {
    background: null,
    view: { stroke: null },
    axis: {
      ...labels,
      labelFontSize: 12,
      titleFontSize: 12,
      titleFontWeight: "normal",
      domainColor: "var(--chart-muted)",
      tickColor: "var(--chart-muted)",
      gridColor: grid,
      labelLimit: 180,
    },
    // Half as many ticks as by default.
    axisX: { tickCount: { expr: "ceil(width / 80)" } },
    legend: {
      ...labels,
      orient: "top",
      labelFontSize: 12,
      titleFontSize: 12,
      titleFontWeight: "normal",
      symbolOpacity: 1,
    },
  };
  const options = {
    mode: "vega-lite",
    renderer: "svg",
    actions: false,
    ast: true,
    defaultStyle: false,
    config,
  };

  /** Where an item is in the drawing: the middle of its upper edge, and its size. */
  const place = (view, { bounds, mark }) => {
    let [x, y] = view.origin();
    for (let group = mark.group; group; group = group.mark.group) {
      x += group.x || 0;
      y += group.y || 0;
    }
    return { x: x + bounds.x1, y: y + bounds.y1, width: bounds.width(), height: bounds.height() };
  };

  /** The items with values, from left to right. */
  const items = (view) => {
    const found = [];
    const visit = (mark) => {
      for (const item of mark.items) {
        if (mark.marktype === "group") item.items.forEach(visit);
        else if (item.tooltip) found.push({ item, ...place(view, item) });
      }
    };
    visit(view.scenegraph().root);
    return found.sort((a, b) => a.x - b.x || a.y - b.y).map(({ item }) => item);
  };

  class Values {
    /** The values at a point, and a ring around it. */
    constructor(plot) {
      this.plot = plot;
      this.box = this.add("chart-values");
      this.box.setAttribute("role", "status");
      this.ring = this.add("chart-ring");
    }

    add(name) {
      const element = document.createElement("div");
      element.className = name;
      this.plot.parentElement.append(element);
      return element;
    }

    hide() {
      this.box.classList.remove("shown");
      this.ring.classList.remove("shown");
    }

    say(lines, x, y) {
      this.box.replaceChildren(
        ...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })),
      );
      const { offsetLeft, offsetTop, clientWidth } = this.plot;
      const left = Math.max(0, Math.min(x + 12, clientWidth - this.box.offsetWidth));
      this.box.style.left = `${offsetLeft + left}px`;
      this.box.style.top = `${offsetTop + y - this.box.offsetHeight - 10}px`;
      this.box.classList.add("shown");
    }

    show(view, item) {
      const { x, y, width, height } = place(view, item);
      const { offsetLeft, offsetTop } = this.plot;
      Object.assign(this.ring.style, {
        left: `${offsetLeft + x - 3}px`,
        top: `${offsetTop + y - 3}px`,
        width: `${width + 6}px`,
        height: `${height + 6}px`,
      });
      this.ring.classList.add("shown");
      this.say(
        Object.entries(item.tooltip).map(([name, value]) => `${name}: ${value}`),
        x + width / 2,
        y,
      );
    }
  }

  const followKeys = (plot, view, values) => {
    let at = -1;
    plot.tabIndex = 0;
    plot.addEventListener("focus", () => {
      at = -1;
      if (plot.matches(":focus-visible")) values.say(["Arrow keys show the values."], 0, 20);
    });
    plot.addEventListener("blur", () => values.hide());
    plot.addEventListener("keydown", (event) => {
      const all = items(view);
      const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 };
      if (event.key === "Escape") {
        values.hide();
      } else if (event.key in moves && all.length) {
        at = Math.max(0, Math.min(all.length - 1, moves[event.key]));
        values.show(view, all[at]);
        event.preventDefault();
      }
    });
  };

  const draw = async (plot) => {
    const spec = JSON.parse(plot.nextElementSibling.textContent);
    const values = new Values(plot);
    const tooltip = (_, __, item, value) => (value ? values.show(view, item) : values.hide());
    const { view } = await window.vegaEmbed(plot, spec, { ...options, tooltip });
    followKeys(plot, view, values);
    // Vega follows the size of the window; a chart may also be in a part that is opened later.
    let width = plot.clientWidth;
    new ResizeObserver(() => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth;
      window.dispatchEvent(new Event("resize"));
    }).observe(plot);
    return view;
  };

  const drawAll = async () => {
    const views = {};
    for (const plot of document.querySelectorAll(".chart-plot")) {
      // One at a time, so that the page responds meanwhile.
      await new Promise((resolve) => setTimeout(resolve));
      views[plot.parentElement.id] = await draw(plot);
    }
    return views;
  };

  // The views by the ids of their figures, once all are drawn.
  window.charts = window.vegaEmbed ? drawAll() : Promise.resolve({});
})();
