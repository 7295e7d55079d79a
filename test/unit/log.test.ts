import { describe, expect, test } from 'vitest';
import { openLog } from '../../agent/log.ts';

function lines(format: 'text' | 'json', level: 'info' | 'warn' = 'info') {
  const out: string[] = [];
  return { out, log: openLog(level, format, (line) => out.push(line)) };
}

describe('the log', () => {
  test('writes the guide’s lines exactly', () => {
    const { out, log } = lines('text');
    log.info('attached TC eBPF program to ingress', { interface: 'eth0' });
    log.info('updated tc_ebpf downstream set', { listener_id: 0, endpoints: 3 });
    expect(out[0]).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z INFO attached TC eBPF program to ingress interface="eth0"\n$/);
    expect(out[1]).toMatch(/Z INFO updated tc_ebpf downstream set listener_id=0 endpoints=3\n$/);
  });

  test('in JSON carries the fields in the message, for grep, and beside it', () => {
    const { out, log } = lines('json');
    log.info('updated tc_ebpf downstream set', { listener_id: 0, endpoints: 3 });
    expect(JSON.parse(out[0]!)).toEqual({
      level: 'INFO',
      time: expect.stringMatching(/Z$/),
      listener_id: 0,
      endpoints: 3,
      msg: 'updated tc_ebpf downstream set listener_id=0 endpoints=3',
    });
  });

  test('leaves out what is below its level', () => {
    const { out, log } = lines('text', 'warn');
    log.info('no');
    log.warn('yes');
    expect(out).toHaveLength(1);
  });

  test('keeps an event on one line whatever is in it', () => {
    const { out, log } = lines('text');
    log.error('two\nlines', { name: 'a "b"\nc' });
    expect(out.join('').match(/\n/g)).toHaveLength(1);
    expect(out[0]).toContain('name="a \\"b\\"\\nc"');
  });
});
