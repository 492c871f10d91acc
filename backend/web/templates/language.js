// TEXTS has the texts of the page in another language, by the English ones; {} stands for what varies, and the longest that fits counts.
const PATTERNS = Object.keys(TEXTS).filter((english) => english.includes("{}")).sort((a, b) => b.length - a.length).map((english) => [
  new RegExp(`^${english.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replaceAll("{}", "(.+?)")}$`), TEXTS[english],
]);
const translated = (text) => {
  if (Object.hasOwn(TEXTS, text)) return TEXTS[text];
  for (const [pattern, other] of PATTERNS) {
    const found = text.match(pattern);
    let part = 0;
    if (found) return other.replaceAll("{}", () => translated(found[++part]));
  }
  return text.includes(", ") ? text.split(", ").map(translated).join(", ") : text;
};
const translate = (page) => {
  if (!Object.keys(TEXTS).length) return;
  const nodes = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const node = nodes.currentNode, text = node.data.trim();
    if (text && node.parentNode.nodeName !== "SCRIPT") node.data = node.data.replace(text, () => translated(text));
  }
  for (const each of page.querySelectorAll("[aria-label]")) each.setAttribute("aria-label", translated(each.getAttribute("aria-label")));
  page.title = translated(page.title);
};
translate(document);
