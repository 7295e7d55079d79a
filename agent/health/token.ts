/** Random bytes that nobody can guess, drawn by the page: one draw costs as much as thirty tokens do otherwise. */
import { randomBytes } from 'node:crypto';

const TOKEN_BYTES = 16;
const TOKENS_A_PAGE = 256;

let page = Buffer.alloc(0);
let used = 0;

/** A token of 16 bytes. */
export function newToken(): Buffer {
  if (used === page.length) {
    // Tokens that are still waited for keep the old page.
    page = randomBytes(TOKENS_A_PAGE * TOKEN_BYTES);
    used = 0;
  }
  used += TOKEN_BYTES;
  return page.subarray(used - TOKEN_BYTES, used);
}
