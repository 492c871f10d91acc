"""Chromium reads labeling configs as the recorded table says, which the fast tests hold our reading to."""

import json
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CONFIGS = json.loads((Path(__file__).parents[1] / "golden" / "label_studio" / "configs.json").read_text())

# As `treeToModel` of Label Studio's editor does it: an error counts among the first children only, names of attributes
# are lower case, and text in a tag without tags is its value.
READ = """text => {
  const root = new DOMParser().parseFromString(text, "application/xml").children[0];
  for (let node = root, depth = 0; node && depth < 3; node = node.children[0], depth++)
    if (node.tagName === "parsererror") return null;
  const tags = [];
  const read = node => {
    const attributes = {};
    for (const { name, value } of node.attributes) attributes[name.toLowerCase()] = value;
    if (node.childNodes.length && !node.children.length && node.innerHTML.trim())
      attributes.value = node.innerHTML.trim();
    tags.push([node.tagName, attributes]);
    if (node.tagName.toLowerCase() !== "hypertext") [...node.children].forEach(read);
  };
  read(root);
  return tags;
}"""


def test_chromium_reads_every_config_as_recorded(browser):
    page = browser.new_page()
    assert {name: page.evaluate(READ, config["text"]) for name, config in CONFIGS.items()} == {
        name: config["tags"] for name, config in CONFIGS.items()
    }
    page.close()
