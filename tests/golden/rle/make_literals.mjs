// Writes literals.json: brush strokes with soft edges, as the browser's canvas makes them, packed by @thi.ng/rle-pack.
// Run in a folder with that package installed: `node make_literals.mjs > literals.json`.
import { encode } from "@thi.ng/rle-pack";

let state = 12345;
const random = () => (state = (state * 1103515245 + 12345) % 2147483648) / 2147483648;
const strokes = [];
for (let number = 0; number < 40; number++) {
  const width = 1 + Math.floor(random() * 40), height = 1 + Math.floor(random() * 30);
  const data = new Uint8Array(width * height * 4), alpha = [];
  const [x0, y0, radius] = [random() * width, random() * height, random() * 15];
  for (let k = 0; k < width * height; k++) {
    const distance = Math.hypot((k % width) - x0, Math.floor(k / width) - y0);
    const value = Math.round(255 * Math.min(1, Math.max(0, radius - distance)));
    alpha.push(value);
    // Every third stroke keeps a colour of its own, so that single values occur, not only runs of four.
    data.set(number % 3 ? [value, value, value, value] : [value >> 1, 0, 7, value], k * 4);
  }
  const rle = number % 2 ? encode(data, data.length) : encode(data, data.length, 8, [3, 4, 8, 16]);
  strokes.push({ size: [height, width], alpha, rle: Array.from(rle) });
}
console.log(JSON.stringify(strokes));
