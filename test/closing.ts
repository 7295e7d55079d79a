/** Closes the books after each test that sends numbered datagrams: see lab/books.ts. */
import { afterEach, beforeEach } from 'vitest';
import { Books, books, openBooks } from '../lab/books.ts';

/** What the file starts outside of its tests. */
const ofFile = new Books();
openBooks(ofFile);

beforeEach(async () => openBooks(await ofFile.forTest()));

// First of all that runs after a test, while its agents and receivers are there: `sequence.hooks` in vitest.config.ts.
afterEach(async ({ task }) => {
  try {
    if (task.result?.state !== 'fail') await books()?.close();
  } finally {
    openBooks(ofFile);
  }
});
