// TEXTS has the texts of the page in another language, by the English ones; {} stands for what varies.
const translated = (text) => {
  for (const [english, other] of Object.entries(TEXTS)) {
    const pattern = english.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replaceAll("{}", "(.+)");
    const found = text.match(new RegExp(`^${pattern}$`));
    let part = 0;
    if (found) return other.replaceAll("{}", () => found[++part]);
  }
  return text;
};
if (Object.keys(TEXTS).length) {
  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const node = nodes.currentNode, text = node.data.trim();
    if (text && node.parentNode.nodeName !== "SCRIPT") node.data = node.data.replace(text, () => translated(text));
  }
  for (const each of document.querySelectorAll("[aria-label]")) each.setAttribute("aria-label", translated(each.getAttribute("aria-label")));
  document.title = translated(document.title);
}
