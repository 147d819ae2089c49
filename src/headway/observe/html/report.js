"use strict";
(() => {
  const tip = document.getElementById("tip");
  let cursor = null;

  const hide = () => {
    tip.hidden = true;
    if (cursor) cursor.remove();
    cursor = null;
  };

  const place = (event) => {
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const left = Math.max(8, Math.min(event.clientX + 14, room));
    const above = event.clientY + tip.offsetHeight + 24 > innerHeight;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${event.clientY + scrollY + (above ? -tip.offsetHeight - 12 : 16)}px`;
  };

  const say = (lines, event) => {
    tip.replaceChildren();
    lines.forEach((line, index) => {
      const part = document.createElement(index ? "div" : "b");
      part.textContent = line;
      tip.append(part);
    });
    place(event);
  };

  const number = (value) =>
    Math.abs(value) >= 1000
      ? Math.round(value).toLocaleString("en")
      : String(Number(value.toPrecision(4)));

  // The value of a step path at a place from left to right: its last height until there.
  const height = (path, at) => {
    let x = 0, y = 0, found = null;
    for (const [, kind, first, second] of path.matchAll(/([MHV])(\d+)(?: (\d+))?/g)) {
      if (kind === "V") y = Number(first);
      else {
        x = Number(first);
        if (x > at) return kind === "M" ? null : found;
        if (kind === "M") y = Number(second);
      }
      found = y;
    }
    return x < at - 60 ? null : found;
  };

  const value = (plot, share) => {
    const [low, high] = plot.dataset.y.split(" ").map(Number);
    if (plot.dataset.log === "1") return low * (high / low) ** share;
    return low + (high - low) * share;
  };

  const point = (plot, event) => {
    const box = plot.querySelector("svg").getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    if (share < 0 || share > 1) return hide();
    const side = Number(plot.dataset.side);
    const [low, high] = plot.dataset.x.split(" ").map(Number);
    const lines = [
      `${plot.dataset.title} ${number(low + (high - low) * share)} ${plot.dataset.unit}`.trim(),
    ];
    for (const path of plot.querySelectorAll("path.mean")) {
      const y = height(path.getAttribute("d"), share * side);
      const said = y === null ? "–" : number(value(plot, 1 - y / side));
      lines.push(`${path.dataset.name}: ${said}`);
    }
    if (!cursor || cursor.parentNode !== plot) {
      hide();
      cursor = document.createElement("div");
      cursor.className = "cursor";
      plot.append(cursor);
    }
    cursor.style.left = `${share * 100}%`;
    return say(lines, event);
  };

  // A browser's own tooltip is slow, and there is none on a phone: the first touch takes it over.
  const told = (mark) => {
    const title = mark.querySelector("title");
    if (title) {
      mark.dataset.told = title.textContent;
      mark.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    return mark.dataset.told;
  };

  const follow = (event) => {
    const mark = event.target.closest("rect.job, rect.bar");
    const plot = event.target.closest(".plot.hover");
    if (mark) say(told(mark).split(" · "), event);
    else if (plot) point(plot, event);
    else hide();
  };

  document.addEventListener("pointermove", follow);
  document.addEventListener("pointerdown", follow);
  document.addEventListener("scroll", hide, { passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.documentElement.addEventListener("pointerleave", hide);
})();
