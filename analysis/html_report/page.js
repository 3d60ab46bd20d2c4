// The buttons of a page: colours, copying, enlarged figures; and printing.
"use strict";
(() => {
  const status = document.getElementById("status");

  for (const each of document.querySelectorAll("[data-needs-script]")) each.hidden = false;

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark =
      root.dataset.theme === "dark" ||
      (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    root.dataset.theme = dark ? "light" : "dark";
    status.textContent = `${root.dataset.theme} colours`;
    document.dispatchEvent(new CustomEvent("themechange"));
  });

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Without permission, or in a browser that has no clipboard for files.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.addEventListener("click", async () => {
      const done = await copy(document.getElementById(button.dataset.copy).textContent);
      status.textContent = done ? "copied" : "copying failed: select the text instead";
      button.dataset.done = done ? "copied" : "failed";
      setTimeout(() => delete button.dataset.done, 2000);
      button.focus();
    });
  }

  const enlarged = document.getElementById("enlarged");
  for (const button of document.querySelectorAll("button[data-enlarge]")) {
    button.addEventListener("click", () => {
      const source = button.closest("figure").querySelector("img");
      const image = enlarged.querySelector("img");
      image.src = source.src;
      image.alt = source.alt;
      enlarged.showModal();
    });
  }
  enlarged.querySelector("button").addEventListener("click", () => enlarged.close());

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const each of closed) each.open = true;
  });
  addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
  });

  // A link to a figure that is folded away opens it.
  function show() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let each = target; each; each = each.parentElement) {
      if (each.tagName === "DETAILS") each.open = true;
    }
    if (target) target.scrollIntoView();
  }
  addEventListener("hashchange", show);
  show();
})();
