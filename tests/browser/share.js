// Processes of `SHARES` share a file's tests, side by side: `SHARE=0 SHARES=4` runs the first, the fifth, and so on.
import whole from "node:test";

const [share, shares] = [Number(process.env.SHARE ?? 0), Number(process.env.SHARES ?? 1)];
let nth = 0;

export function test(name, body) {
  if (nth++ % shares === share) whole(name, body);
}
