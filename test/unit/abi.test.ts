/**
 * The mirror of bpf/udp_fanout.h against clang: a C program that includes the header prints what the compiler makes of
 * it, and the object's own maps say what they were built with.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import * as abi from '../../agent/datapath/tc/abi.ts';
import { objectClose, objectMaps, objectOpen, type Pointer } from '../../agent/ffi/libbpf.ts';
import { LIMITS } from '../../agent/model.ts';

const ROOT = join(import.meta.dirname, '../..');
const HEADER = join(ROOT, 'bpf/udp_fanout.h');

/** What the C program prints. */
interface Compiled {
  readonly constants: Readonly<Record<string, number>>;
  /** Size and offsets by struct. */
  readonly layout: Readonly<Record<string, Readonly<Record<string, number>>>>;
  readonly tears: readonly string[];
  readonly verdicts: readonly { readonly name: string; readonly fate: string; readonly meaning: string }[];
  /** Keys and values as C writes them, in hex. */
  readonly bytes: Readonly<Record<string, string>>;
}

/** The same keys and values, as the agent's encoders write them. */
const v4 = { family: 4, ip: '10.1.2.3', port: 9000 } as const;
const v6 = { family: 6, ip: 'fd00::a:1', port: 514 } as const;
const table = abi.encodeTable(
  [
    { address: v4, node: '10.9.8.7', hop: { local: false, egress: { ifindex: 7, mtu: 70_000 } } },
    { address: v6, node: 'fd00:1:2::f', hop: { local: true } },
  ],
  {
    generation: 7,
    since: 3,
    previous: 6,
    kept: Array.from({ length: 258 }, (_, at) => at === 0 || at === 33 || at === 257),
  },
  3,
);
const ENCODED: Readonly<Record<string, Uint8Array>> = {
  address4: abi.encodeAddressKey(v4),
  address6: abi.encodeAddressKey(v6),
  bind4: abi.encodeBindKey(v4, 4, 258),
  bind6: abi.encodeBindKey(v6, 6, 258),
  wildcard: abi.encodeBindKey({ family: 6, ip: '::', port: 9000 }, 4, 1),
  lead: abi.encodeBind(5, 6),
  shared: abi.encodeBind(5, 4, abi.CONSTANTS.BIND_SHARED),
  peer: abi.encodePeerKey(v4, 258, '02:00:5e:00:00:fe'),
  head: table.subarray(0, 32),
  slot4: table.subarray(32, 64),
  slot6: table.subarray(64, 96),
  kept: table.subarray(96, 128),
  keptToo: table.subarray(128, 160),
};

/** C initializers for them. */
const SAMPLES: Readonly<Record<string, readonly [type: string, value: string]>> = {
  address4: ['struct address_key', `{ .addr.bytes = { 10, 1, 2, 3 }, .family = AF_INET }`],
  address6: ['struct address_key', `{ .addr = V6, .family = AF_INET6 }`],
  bind4: [
    'struct bind_key',
    '{ .addr.bytes = { 10, 1, 2, 3 }, .ifindex = 258, .port = htons(9000), .family = AF_INET }',
  ],
  bind6: ['struct bind_key', '{ .addr = V6, .ifindex = 258, .port = htons(514), .family = AF_INET6 }'],
  wildcard: ['struct bind_key', '{ .ifindex = 1, .port = htons(9000), .family = AF_INET }'],
  lead: ['struct bind', '{ .listener = 5, .table = 2 * 5 + 1 }'],
  shared: ['struct bind', '{ .listener = 5, .table = 2 * 5, .flags = BIND_SHARED }'],
  peer: [
    'struct peer_key',
    '{ .addr.bytes = { 10, 1, 2, 3 }, .ifindex = 258, .family = AF_INET, .port = htons(9000), .mac = { 2, 0, 0x5e, 0, 0, 0xfe } }',
  ],
  // Three cells of head and slots, two of bits; two slots share a cell of counters, one such row for each CPU.
  head: [
    'union cell',
    '{ .head = { .slots = 2, .counters = 5, .counters_a_cpu = 1, .generation = 7, .since = 3, .previous = 6, .kept = 3 } }',
  ],
  slot4: [
    'union cell',
    '{ .slot = { .addr.bytes = { 10, 1, 2, 3 }, .port = htons(9000), .hop = NEXT_HOP_NEIGH, .ifindex = 7, .mtu = 65535, .node = htonl(0x0a090807) } }',
  ],
  slot6: [
    'union cell',
    '{ .slot = { .addr = V6, .port = htons(514), .hop = NEXT_HOP_LOCAL, .node = htonl(0xfd000001 ^ 0x00020000 ^ 0x0f) } }',
  ],
  kept: ['union cell', '{ .kept = { 1, 2 } }'],
  keptToo: ['union cell', '{ .kept = { 2 } }'],
};

const FATES: readonly abi.Fate[] = ['FORWARDED', 'HANDED', 'DROPPED', 'PASSED'];

let compiled: Compiled;

function program(): string {
  const constants = ['UDP_FANOUT_ABI', 'VERDICT_COUNT', ...Object.keys(abi.CONSTANTS)];
  const layout = Object.entries(abi.LAYOUT).map(([name, fields]) => {
    const places = Object.keys(fields).map((field) => {
      const of = field === 'size' ? `sizeof(struct ${name})` : `offsetof(struct ${name}, ${field})`;
      return `printf("\\"${field}\\": %zu, ", ${of});`;
    });
    return `printf("\\"${name}\\": {"); ${places.join(' ')} printf("\\"\\": 0}, ");`;
  });
  const samples = Object.entries(SAMPLES).map(
    ([name, [type, value]]) => `{ ${type} one = ${value}; hex("${name}", &one, sizeof(one)); }`,
  );
  return `
#include <stddef.h>
#include <stdio.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include "${HEADER}"
#define V6 { .bytes = { 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0x01 } }
static void hex(const char *name, const void *at, size_t size)
{
	printf("\\"%s\\": \\"", name);
	for (size_t i = 0; i < size; i++)
		printf("%02x", ((const unsigned char *)at)[i]);
	printf("\\", ");
}
int main(void)
{
	printf("{\\"constants\\": {");
	${constants.map((name) => `printf("\\"${name}\\": %lld, ", (long long)${name});`).join('\n\t')}
	printf("\\"\\": 0}, \\"layout\\": {");
	${layout.join('\n\t')}
	printf("\\"\\": {}}, \\"bytes\\": {");
	${samples.join('\n\t')}
	printf("\\"\\": \\"\\"}, \\"verdicts\\": [");
#define V(name, fate, meaning) printf("%s{\\"name\\": \\"%s\\", \\"fate\\": \\"%s\\", \\"meaning\\": \\"%s\\"}", \\
		VERDICT_##name ? ", " : "", #name, #fate, meaning);
	VERDICTS(V)
#undef V
	printf("], \\"tears\\": [");
#define V(name, fate, meaning) \\
	printf("%s\\"%s\\"", offsetof(struct torn, name) ? ", " : "", #name);
	TEARS(V)
#undef V
	printf("]}");
	return 0;
}
`;
}

beforeAll(() => {
  const directory = mkdtempSync(join(tmpdir(), 'udp-fanout-abi-'));
  try {
    writeFileSync(join(directory, 'abi.c'), program());
    const binary = join(directory, 'abi');
    execFileSync('clang', ['-Wall', '-Werror', '-o', binary, join(directory, 'abi.c')], { stdio: 'pipe' });
    compiled = JSON.parse(execFileSync(binary, { encoding: 'utf8' })) as Compiled;
  } finally {
    rmSync(directory, { recursive: true });
  }
});

/** The entries without the empty one that ends each list in the C program's output. */
const entries = <T>(from: Readonly<Record<string, T>>) =>
  Object.fromEntries(Object.entries(from).filter(([key]) => key));

describe('the mirror of bpf/udp_fanout.h', () => {
  test('has its constants', () => {
    const { constants } = compiled;
    expect(constants).toMatchObject(abi.CONSTANTS);
    expect(constants.UDP_FANOUT_ABI).toBe(abi.ABI);
    expect(constants.VERDICT_COUNT).toBe(abi.VERDICTS.length);
  });

  test.each(Object.entries(abi.LAYOUT))('has the layout of %s', (name, layout) => {
    expect(entries(compiled.layout[name]!)).toEqual(layout);
  });

  test('has the verdicts in their order, with their fates and meanings', () => {
    expect(compiled.verdicts).toEqual(abi.VERDICTS);
    expect(compiled.tears).toEqual(abi.TEARS);
  });

  test('has the fates in the order in which the program tells them apart', () => {
    const fates = abi.VERDICTS.map(({ fate }) => fate);
    expect([...new Set(fates)]).toEqual(FATES);
    expect(fates).toEqual([...fates].sort((a, b) => FATES.indexOf(a) - FATES.indexOf(b)));
    expect(abi.VERDICTS.find(({ fate }) => fate === 'HANDED')!.name).toBe('ip_options');
    expect(abi.VERDICTS.find(({ fate }) => fate === 'DROPPED')!.name).toBe('no_downstream');
    expect(abi.VERDICTS.find(({ fate }) => fate === 'PASSED')!.name).toBe('already_spread');
  });

  test.each(Object.entries(ENCODED))('writes %s as C does', (name, bytes) => {
    expect(Buffer.from(bytes).toString('hex')).toBe(compiled.bytes[name]);
  });

  test('promises no more than the maps hold', () => {
    expect(LIMITS.listeners).toBe(compiled.constants.MAX_LISTENERS);
    expect(LIMITS.slotsPerTable).toBe(compiled.constants.MAX_SLOTS);
    expect(abi.tableIndex(LIMITS.listeners - 1, 6)).toBe(compiled.constants.MAX_TABLES! - 1);
  });

  test('is not a copy of a part: the header has no constant that nobody compares', () => {
    const header = readFileSync(HEADER, 'utf8');
    const defined = [...header.matchAll(/^#define (\w+) /gm)].map(([, name]) => name!);
    expect(defined.filter((name) => !(name in compiled.constants))).toEqual([]);
  });
});

describe('the object', () => {
  const maxEntries = koffi.load('libbpf.so.1').func('uint32_t bpf_map__max_entries(void *map)');
  let object: Pointer;
  beforeAll(() => {
    object = objectOpen(join(ROOT, 'dist/udp_fanout.bpf.o'));
  });
  afterAll(() => objectClose(object));

  test('has maps of the sizes that the agent writes, as large as the header says', () => {
    const { constants, layout } = compiled;
    const found = objectMaps(object).map(({ name, pointer, keySize, valueSize }) => {
      return [name.replace(/^.*(?=\.)/, ''), [keySize, valueSize, maxEntries(pointer)]] as const;
    });
    expect(Object.fromEntries(found)).toMatchObject({
      ADDRESSES: [layout.address_key!.size, 4, constants.MAX_ADDRESSES],
      BINDS: [layout.bind_key!.size, layout.bind!.size, constants.MAX_BINDS],
      PEERS: [layout.peer_key!.size, 16, constants.MAX_PEERS],
      TABLES: [4, 4, constants.MAX_TABLES],
      STATS: [4, layout.stats!.size, constants.MAX_LISTENERS],
      FRAGMENTS: [layout.fragment_key!.size, layout.fragment!.size, constants.MAX_FRAGMENTED],
      '.bss': [4, 65536, 1],
    });
  });
});
