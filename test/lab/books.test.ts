/** The books that are closed after each test: what they let pass, and what not. */
import { describe, expect, test } from 'vitest';
import { Books, books, loses, openBooks } from '../../lab/books.ts';
import type { Report, Sent } from '../../lab/traffic.ts';

/** Bits of the sequence numbers. */
const bits = (numbers: readonly number[]) => {
  const bytes = Buffer.alloc(8);
  for (const number of numbers) bytes[number >> 3]! |= 1 << (number & 7);
  return bytes.toString('base64');
};
const report = (seen: readonly number[], again: readonly number[] = []): Report => ({
  receivers: [
    {
      ...{ name: 'pod', count: seen.length, bytes: 0, payloadErrors: 0, sources: {}, ttls: {}, times: '' },
      errors: { InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 },
      streams: [
        {
          ...{ stream: 1, count: seen.length, lowest: 0, highest: 9, gaps: 0, duplicates: 0, outOfOrder: 0 },
          ...{ seen: bits(seen), again: bits(again) },
        },
      ],
    },
  ],
  ...{ count: seen.length, payloadErrors: 0, errors: { InErrors: 0, InCsumErrors: 0, RcvbufErrors: 0, NoPorts: 0 } },
});
const sent = (count: number): Sent => ({ count, streams: [{ stream: 1, from: '', count }], failures: {}, ms: 1 });
const agent = (counters: Readonly<Record<string, number>>, facts = {}) => ({
  ...{ host: 'node', hasEnded: false, goesOn: false, ...facts },
  account: async () =>
    new Map(Object.entries(counters).map(([name, value]) => [`udp_fanout_${name}{listener="test"}`, value])),
});
const upTo = (count: number) => Array.from({ length: count }, (_, at) => at);

async function closed(count: number, arrived: Report, counters?: Readonly<Record<string, number>>): Promise<string> {
  const one = books() ?? new Books(0);
  // Those of this test are closed by nobody else.
  openBooks(undefined);
  one.sent.push(sent(count));
  one.reports.push(arrived);
  if (counters) one.agents.set(agent(counters), undefined);
  return one.close().then(
    () => 'closed',
    ({ message }: Error) => message.replace('the books do not close: ', ''),
  );
}

describe('the books', () => {
  test('of what came whole are closed, and of what was not received too', async () => {
    openBooks(undefined);
    expect(await closed(10, report(upTo(10)))).toBe('closed');
    await new Books(0).close();
  });

  test('want a name for what is lost', async () => {
    openBooks(undefined);
    const said = '10 sent, 8 received, 1 dropped by name, 0 torn, 0 on the way out, 0 excused';
    const counters = { packets_received_total: 9, packets_forwarded_total: 8, packets_dropped_total: 1 };
    expect(await closed(10, report(upTo(8)), counters)).toBe(said);
    expect(await closed(10, report(upTo(8)), { ...counters, egress_drops_total: 1 })).toBe('closed');
  });

  test('want what was forwarded to have come', async () => {
    openBooks(undefined);
    const counters = { packets_received_total: 10, packets_forwarded_total: 9, packets_dropped_total: 2 };
    const unequal = 'the agents received 10, forwarded 9, dropped 2; 9 forwarded, 0 of them torn, 8 received';
    expect(await closed(10, report(upTo(8)), counters)).toBe(unequal);
    expect(await closed(10, report(upTo(8)), { ...counters, packets_forwarded_total: 8 })).toBe('closed');
    expect(await closed(10, report(upTo(8)), { ...counters, packets_dropped_total: 1, packets_torn_total: 1 })).toBe(
      'closed',
    );
    // Also where some were for nobody, or came another way.
    const some = { packets_received_total: 9, packets_forwarded_total: 9 };
    expect(await closed(10, report(upTo(8)), some)).toMatch(/; 9 forwarded, .* 8 received$/);
  });

  test('are those of what a file has started before, from where its counters stand', async () => {
    const file = new Books(0);
    const counts = { packets_received_total: 5, packets_forwarded_total: 3, packets_dropped_total: 2 };
    file.agents.set(agent({}, { hasEnded: true }), undefined);
    file.agents.set(agent(counts), undefined);
    openBooks(await file.forTest());
    const said = '10 sent, 9 received, 0 dropped by name, 0 torn, 0 on the way out, 0 excused';
    expect(await closed(10, report(upTo(9)))).toBe(said);
  });

  test('count once what an agent has taken over from one before it', async () => {
    openBooks(new Books(0));
    const first = { packets_received_total: 6, packets_forwarded_total: 5, packets_dropped_total: 1 };
    const second = { packets_received_total: 10, packets_forwarded_total: 9, packets_dropped_total: 1 };
    books()!.agents.set(agent(first, { hasEnded: true }), undefined);
    books()!.agents.set(agent(second, { goesOn: true }), undefined);
    expect(await closed(10, report(upTo(8)))).toMatch(/^10 sent, 8 received, 1 dropped by name, .*; 9 forwarded, /);
  });

  test('want each once', async () => {
    openBooks(undefined);
    expect(await closed(10, report(upTo(10), [3]))).toMatch(/^came more than once: .*"first":3/);
  });

  test('take a reason for so many and no more', async () => {
    openBooks(new Books(0));
    loses('nobody receives there', { atMost: 7 });
    expect(await closed(10, report(upTo(2)))).toMatch(/7 excused$/);
    openBooks(new Books(0));
    loses('nobody receives there', { atMost: 8 });
    expect(await closed(10, report(upTo(2)))).toBe('closed');
  });
});
