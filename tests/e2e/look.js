// What a careful reader would complain about, as JSON. Runs in the page, changes nothing it keeps.
(() => {
  document.querySelectorAll("details").forEach((one) => { one.open = true; });
  const wide = document.documentElement.clientWidth;
  const parse = (text) => {
    const found = text.match(/[\d.]+/g);
    return found ? found.map(Number) : [0, 0, 0, 0];
  };
  const over = (front, back) => {
    const alpha = front.length > 3 ? front[3] : 1;
    return [0, 1, 2].map((k) => alpha * front[k] + (1 - alpha) * back[k]);
  };
  const light = (colour) => {  // WCAG 2.2, relative luminance
    const [r, g, b] = colour.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const canvas = parse(getComputedStyle(document.documentElement).backgroundColor);
  const ground = canvas.length > 3 && canvas[3] === 0 ? [255, 255, 255] : canvas.slice(0, 3);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at && at.nodeType === 1; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, above) => over(above, below), ground);
  };
  const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const scrolls = (element) => element.closest(".box") !== null;
  const say = (element) => `${element.tagName} ${element.textContent.trim().slice(0, 40)}`;

  const faint = [], clipped = [], beyond = [];
  let texts = 0, inPlots = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !shown(element) || element.closest("svg")) continue;
    texts += 1;
    const style = getComputedStyle(element);
    const back = behind(element), ink = over(parse(style.color), back);
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const wanted = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    const ratio = contrast(ink, back);
    if (ratio < wanted) faint.push(`${say(element)}: ${ratio.toFixed(2)}`);
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if ((box.right > wide + 1 || box.left < -1) && !scrolls(element)) { beyond.push(say(element)); break; }
    }
  }
  for (const element of document.body.querySelectorAll("*")) {
    if (!shown(element) || element.closest("svg") || scrolls(element)) continue;
    const style = getComputedStyle(element);
    const hides = ["hidden", "clip"].includes(style.overflowX) || ["hidden", "clip"].includes(style.overflowY);
    if (hides && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1)) clipped.push(say(element));
  }
  for (const plot of document.querySelectorAll("svg")) {
    if (!shown(plot)) continue;
    const frame = plot.getBoundingClientRect();
    const shapes = [...plot.querySelectorAll("path, rect")].map((one) => [one, one.getBoundingClientRect()]);
    for (const text of plot.querySelectorAll("text")) {
      inPlots += 1;
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) clipped.push(say(text));
      const x = (box.left + box.right) / 2, y = (box.top + box.bottom) / 2;
      let back = behind(plot.parentElement);
      for (const [shape, area] of shapes) {  // in the order of painting
        const before = shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING;
        const fill = getComputedStyle(shape).fill;
        if (before && fill !== "none" && area.left <= x && x <= area.right && area.top <= y && y <= area.bottom && !shape.closest("defs, clipPath")) back = over(parse(fill), back);
      }
      const ratio = contrast(over(parse(getComputedStyle(text).fill), back), back);
      if (ratio < 4.5) faint.push(`${say(text)}: ${ratio.toFixed(2)}`);
    }
  }
  const plots = [...document.querySelectorAll("svg")].filter(shown);
  return {
    width: window.innerWidth,
    scrollWidth: document.documentElement.scrollWidth,
    dark: light(ground) < 0.2,
    title: document.title,
    texts, inPlots, faint, clipped, beyond,
    plots: plots.length,
    undescribed: plots.filter((one) => one.getAttribute("role") !== "img" || (one.getAttribute("aria-label") || "").length < 30).length,
  };
})()
