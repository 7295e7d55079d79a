/** Closes the books after each test that sends numbered datagrams: see lab/books.ts. */
import { afterEach, beforeEach } from 'vitest';
import { Books, books, openBooks } from '../lab/books.ts';

beforeEach(() => openBooks(new Books()));

// First of all that runs after a test, while its agents and receivers are there: `sequence.hooks` in vitest.config.ts.
afterEach(async ({ task }) => {
  const current = books();
  openBooks(undefined);
  if (task.result?.state !== 'fail') await current?.close();
});
