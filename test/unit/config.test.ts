import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { toJSONSchema } from 'zod';
import { type Config, ConfigError, loadConfig, parseConfig } from '../../agent/config/load.ts';
import { nearest } from '../../agent/config/nearest.ts';
import { configSchema } from '../../agent/config/schema.ts';

const WANT_ADDRESS = 'want "IP:port" such as "10.0.1.10:5514" or "[fd00::1]:5514"';
const WANT_NAME = '1 to 63 letters, digits, "-", "_" and ".", the first a letter or digit';
const WANT_INTERFACE = 'a Linux interface name such as eth0: 1 to 15 bytes, no "/", ":" or space, not "." or ".."';
const NEED_INTERFACE = 'want the interface whose ingress is taken, such as eth0, or mode: userspace';
const WANT_LABEL = '1 to 63 lowercase letters, digits and "-", the first and last no "-"';
const WANT_PORT_NAME = 'a port name: up to 15 lowercase letters, digits and single "-", a letter among them';
const WANT_PATH = 'want a path such as /metrics: it starts with "/" and has no space, "?", "#", ":" or "*"';
const WANT_LISTENER =
  'want a map with the keys name, bind, interface, interfaces, mode, source, pmtu, kubernetes, downstream, settings';
const WANT_LISTENERS = 'want a list of listeners, each a map that starts with "- name:"';
const TOP_KEYS = 'listeners, health, metrics, lifecycle, log';

/** A config of five lines with one listener; what is given replaces its line, `rest` starts in line 6. */
function config({
  name = 'syslog',
  bind = '"0.0.0.0:5514"',
  nic = 'interface: eth0',
  source = STATIC,
  rest = '',
} = {}) {
  return `listeners:\n  - name: ${name}\n    bind: ${bind}\n    ${nic}\n    ${source}\n${rest}`;
}
const STATIC = 'downstream: [{address: "10.0.1.10:9000"}]';

/** The mistakes as `LINE:COL: message`. */
function mistakesIn(text: string): readonly string[] {
  try {
    parseConfig(text, 'config.yaml');
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.diagnostics.map(({ line, col, message }) => `${line}:${col}: ${message}`);
  }
  return [];
}

type Case = readonly [name: string, yaml: string, ...diagnostics: readonly string[]];

// biome-ignore format: a table, one case a line
const FILES: readonly Case[] = [
  ['an empty file', '', '1:1: the file is empty, want YAML with at least "listeners:"'],
  ['only comments', '# nothing\n\n', '1:1: the file is empty, want YAML with at least "listeners:"'],
  ['only a document start', '---\n', '1:1: the file is empty, want YAML with at least "listeners:"'],
  ['plain text', 'hello', `1:1: config "hello": want a map with the keys ${TOP_KEYS}`],
  ['a list', '\n- a\n', `2:1: config: found a list, want a map with the keys ${TOP_KEYS}`],
  ['a tab as indent', config({ rest: '\tmode: auto\n' }), '6:1: not valid YAML: this line is indented with a tab, want spaces'],
  ['an open quote', 'log: "x\n', '2:1: not valid YAML: Missing closing "quote'],
  ['a map in a line', 'log: level: info\n', '1:6: not valid YAML: Nested mappings are not allowed in compact mappings'],
  ['an open list with CRLF', 'log: {}\r\nlisteners: [\r\n', '3:1: not valid YAML: Flow sequence in block collection must be sufficiently indented and end with a ]'],
  ['a list that the rest does not belong to, once', '- a\nb: 1\nc: 2\nd: 3\n', '2:1: not valid YAML: Unexpected scalar at node end'],
  ['a mistake after text of several lines', config({ rest: 'log:\n  level: in\n    fo\n  zz: 1\n' }), '7:10: log.level "in fo": unknown level, want trace, debug, info, warn or error; did you mean info?', '9:3: log.zz: unknown key, want one of level, format'],
  ['a second document', config({ rest: '---\nlog: {}\n' }), '6:1: a second YAML document starts here, want one document in the file'],
  ['an alias', config({ bind: '*:5514' }), '3:11: listeners[0].bind: "*:5514" is a YAML alias, want the value itself (a text that starts with "*" needs quotes)'],
  [
    'anchor and alias, both at their place',
    config({ name: '&n syslog', rest: '    interfaces: *n\n' }),
    '2:14: listeners[0].name: "&n" is a YAML anchor, want the value alone',
    '6:5: listeners[0].interfaces: stands beside interface, want one of the two',
    '6:17: listeners[0].interfaces: "*n" is a YAML alias, want the value itself (a text that starts with "*" needs quotes)',
  ],
  ['a merge key', config({ rest: '<<: {log: {}}\n' }), `6:1: ["<<"]: unknown key, want one of ${TOP_KEYS}`],
  ['a tag', config({ bind: '!!str 0.0.0.0:1' }), '3:17: listeners[0].bind: !!str is a YAML tag, want the value alone'],
  ['a tag of nobody', config({ rest: 'log: !mine {}\n' }), '6:12: log: !mine is a YAML tag, want the value alone'],
  ['a list as key', config({ rest: '? [a]\n: 1\n' }), '6:3: this key is a list, a map or an alias, want a plain word'],
  ['a repeated key', config({ rest: 'log: {}\nlog: {level: 3}\n' }), '7:1: log: written twice, first in line 6, want it once'],
  ['a repeated key inside', config({ rest: '    name: b\n' }), '6:5: listeners[0].name: written twice, first in line 2, want it once'],
  ['nesting without end', '['.repeat(20000), expect.stringMatching(/^1:\d+: nested too deeply, want the few levels that the keys need$/)],
  ['__proto__ as key', config({ rest: '__proto__: {}\n' }), `6:1: __proto__: unknown key, want one of ${TOP_KEYS}`],
  ['a key after CRLF', config({ rest: 'zzz: 1\n' }).replaceAll('\n', '\r\n'), `6:1: zzz: unknown key, want one of ${TOP_KEYS}`],
  ['a key after a byte order mark', `\uFEFFzzz: 1\n${config()}`, `1:1: zzz: unknown key, want one of ${TOP_KEYS}`],
  [
    'a key after other alphabets',
    config({ rest: 'log: {"é😀": 1, zz: 2}\n' }),
    '6:7: log["é😀"]: unknown key, want one of level, format',
    '6:16: log.zz: unknown key, want one of level, format',
  ],
  ['a key after a tab', config({ rest: 'log:\t{zz: 2}\n' }), '6:7: log.zz: unknown key, want one of level, format'],
  ['a key with control characters', config({ rest: '"a\\n\\u009b2J": 1\n' }), `6:1: ["a\\n\\u009b2J"]: unknown key, want one of ${TOP_KEYS}`],
  ['YAML 1.1 booleans, whatever the directive says', `%YAML 1.1\n---\n${config({ rest: 'health: {enabled: yes}\n' })}`, '8:19: health.enabled "yes": want true or false, without quotes'],
];

// biome-ignore format: a table, one case a line
const SHAPES: readonly Case[] = [
  ['no listeners', 'log: {}\n', `1:1: listeners is missing, ${WANT_LISTENERS}`],
  ['an empty list', 'listeners: []\n', '1:12: listeners: has 0 listeners, want 1 to 256'],
  ['null listeners', 'listeners:\n', `1:1: listeners: has no value, ${WANT_LISTENERS}`],
  ['listeners as a map', 'listeners:\n  name: a\n', `2:3: listeners: found a map, ${WANT_LISTENERS}`],
  ['an empty item', 'listeners:\n  -\n', `2:4: listeners[0]: has no value, ${WANT_LISTENER}`],
  ['an item of text', 'listeners:\n  - a\n', `2:5: listeners[0] "a": ${WANT_LISTENER}`],
  [
    'an item without keys',
    'listeners:\n  - {}\n',
    `2:5: listeners[0]: name is missing, want ${WANT_NAME}`,
    `2:5: listeners[0]: bind is missing, ${WANT_ADDRESS}`,
    `2:5: listeners[0]: interface is missing, ${NEED_INTERFACE}`,
    '2:5: listeners[0]: kubernetes or downstream is missing, want exactly one of the two',
  ],
  ['an unknown key, near a known one', config({ nic: 'intrface: eth0' }), '4:5: listeners[0].intrface: unknown key, did you mean interface?'],
  ['an unknown key at the top', 'listner: []\n', '1:1: listner: unknown key, did you mean listeners?'],
  ['an unknown key, near none', config({ rest: '    colour: red\n' }), `6:5: listeners[0].colour: unknown key, ${WANT_LISTENER.replace('want a map with the keys', 'want one of')}`],
  ['a key one level too high', config({ rest: '    maxPacketSize: 1\n' }), '6:5: listeners[0].maxPacketSize: unknown key, did you mean max_packet_size under settings?'],
  ['a listener key at the top', config({ rest: 'bind: 1\n' }), '6:1: bind: unknown key, did you mean bind under listeners?'],
  ['a name with a space', config({ name: 'sys log' }), `2:11: listeners[0].name "sys log": want ${WANT_NAME}`],
  ['a name of 64', config({ name: 'a'.repeat(64) }), `2:11: listeners[0].name "${'a'.repeat(64)}": want ${WANT_NAME}`],
  ['an empty name', config({ name: '""' }), `2:11: listeners[0].name "": want ${WANT_NAME}`],
  ['a number as name', config({ name: '514' }), `2:11: listeners[0].name 514: found a number, want text in quotes: ${WANT_NAME}`],
  ['a null name', config({ name: '' }), `2:5: listeners[0].name: has no value, want ${WANT_NAME}`],
  ['an unknown mode', config({ rest: '    mode: tc-ebpf\n' }), '6:11: listeners[0].mode "tc-ebpf": unknown mode, want tc_ebpf, userspace or auto; did you mean tc_ebpf?'],
  ['a mode near none', config({ rest: '    mode: xdp\n' }), '6:11: listeners[0].mode "xdp": unknown mode, want tc_ebpf, userspace or auto'],
  ['a number as mode', config({ rest: '    mode: 1\n' }), '6:11: listeners[0].mode 1: want tc_ebpf, userspace or auto'],
  ['a null mode', config({ rest: '    mode:\n' }), '6:5: listeners[0].mode: has no value, want tc_ebpf, userspace or auto'],
  ['an unknown protocol', config({ rest: 'health: {protocol: imcp}\n' }), '6:20: health.protocol "imcp": unknown protocol, want icmp, udp_port or udp_echo; did you mean icmp?'],
  ['an unknown level', config({ rest: 'log: {level: Warning}\n' }), '6:14: log.level "Warning": unknown level, want trace, debug, info, warn or error; did you mean warn?'],
  ['an unknown format', config({ rest: 'log: {format: jsn}\n' }), '6:15: log.format "jsn": unknown format, want text or json; did you mean json?'],
  ['a null section', config({ rest: 'health:\n' }), '6:1: health: has no value, want a map with the keys enabled, interval_secs, timeout_secs, protocol, fail_open, fall, rise'],
  ['a section of text', config({ rest: 'metrics: on\n' }), '6:10: metrics "on": want a map with the keys enabled, bind, path'],
  ['a section as list', config({ rest: 'log: [text]\n' }), '6:6: log: found a list, want a map with the keys level, format'],
];

// biome-ignore format: a table, one case a line
const BINDS: readonly (readonly [bind: string, message: string])[] = [
  ['"0.0.0.0:0"', ' "0.0.0.0:0": port 0 is not usable, want 1 to 65535'],
  ['"0.0.0.0:65536"', ' "0.0.0.0:65536": port 65536 is not usable, want 1 to 65535'],
  ['"0.0.0.0:abc"', ' "0.0.0.0:abc": port "abc" is not a number, want 1 to 65535'],
  ['"0.0.0.0:-1"', ' "0.0.0.0:-1": port "-1" is not a number, want 1 to 65535'],
  ['"0.0.0.0:5514.5"', ' "0.0.0.0:5514.5": port "5514.5" is not a number, want 1 to 65535'],
  ['"0.0.0.0:05514"', ' "0.0.0.0:05514": port "05514" is not a number, want 1 to 65535'],
  ['"0.0.0.0:"', ' "0.0.0.0:": the port is missing after ":", want 1 to 65535'],
  ['10.0.0.1', ' "10.0.0.1": the port is missing, want "10.0.0.1:PORT" with a port from 1 to 65535'],
  ['localhost', ` "localhost": the port is missing, ${WANT_ADDRESS}`],
  ['"[::]"', ' "[::]": the port is missing, want it after the brackets: "[::]:PORT"'],
  ['"[::]5514"', ` "[::]5514": "5514" after the brackets is not ":port", ${WANT_ADDRESS}`],
  ['"[zz]:1"', ` "[zz]:1": "zz" is not an IPv6 address, ${WANT_ADDRESS}`],
  ['"[10.0.0.1]:1"', ' "[10.0.0.1]:1": brackets are for IPv6 only, want "10.0.0.1:1"'],
  ['fd00::1:5514', ' "fd00::1:5514": IPv6 without brackets, want "[fd00::1]:5514"'],
  [':::5514', ' ":::5514": IPv6 without brackets, want "[::]:5514"'],
  ['fd00::1', ' "fd00::1": IPv6 without brackets and port, want "[fd00::1]:PORT"'],
  ['a:b:c', ` "a:b:c": more than one ":", ${WANT_ADDRESS}`],
  ['localhost:5514', ` "localhost:5514": "localhost" is a host name and names are not looked up, ${WANT_ADDRESS}`],
  ['"eth0:http"', ` "eth0:http": "eth0" is not an IP address, ${WANT_ADDRESS}`],
  ['"[fe80::1%eth0]:1"', ' "[fe80::1%eth0]:1": "%eth0" is a zone id and none is taken, want a routed address and the interface under "interface"'],
  ['fe80::1%eth0', ' "fe80::1%eth0": "%eth0" is a zone id and none is taken, want a routed address and the interface under "interface"'],
  ['"5514"', ' "5514": the address is missing, want it before the port: "0.0.0.0:5514" takes every IPv4 address'],
  ['":5514"', ' ":5514": the address is missing, want "0.0.0.0:5514" for every IPv4 address or "[::]:5514" for IPv6 too'],
  ['"*:5514"', ' "*:5514": "*" is not an address, want "0.0.0.0:5514" for every IPv4 address or "[::]:5514" for IPv6 too'],
  ['"udp://10.0.0.1:1"', ` "udp://10.0.0.1:1": starts with "udp://", ${WANT_ADDRESS}`],
  ['10.0.0.300:1', ' "10.0.0.300:1": "10.0.0.300" is not an IPv4 address, want four numbers from 0 to 255 without leading zeros'],
  ['10.0.0.0/24:1', ' "10.0.0.0/24:1": "10.0.0.0/24" is a network, want one IP address'],
  ['" 0.0.0.0:1"', ` " 0.0.0.0:1": has a space or control character in it, ${WANT_ADDRESS}`],
  ['""', ` "": is empty, ${WANT_ADDRESS}`],
  ['"224.0.0.1:1"', ' "224.0.0.1:1": is a multicast address, want a unicast address'],
  ['"[ff02::1]:1"', ' "[ff02::1]:1": is a multicast address, want a unicast address'],
  ['"255.255.255.255:1"', ' "255.255.255.255:1": is the broadcast address, want a unicast address'],
  ['"[::ffff:10.0.0.1]:1"', ' "[::ffff:10.0.0.1]:1": is IPv4 written as IPv6, want "10.0.0.1:1"'],
  ['5514', ` 5514: found a number, ${WANT_ADDRESS}`],
  ['5514.5', ` 5514.5: found a number, ${WANT_ADDRESS}`],
  ['true', ` true: ${WANT_ADDRESS}`],
  ['~', `: has no value, ${WANT_ADDRESS}`],
  ['[]', `: found a list, ${WANT_ADDRESS}`],
  ['{}', `: found a map, ${WANT_ADDRESS}`],
];

// biome-ignore format: a table, one case a line
const NUMBERS: readonly (readonly [key: string, written: string, shown: string, want: string])[] = [
  ['max_packet_size', '"9000"', '"9000"', 'want a whole number without quotes from 1 to 65507'],
  ['max_packet_size', '0', '0', 'want a whole number from 1 to 65507'],
  ['max_packet_size', '65508', '65508', 'want a whole number from 1 to 65507'],
  ['max_packet_size', '5514.5', '5514.5', 'want a whole number from 1 to 65507'],
  ['max_packet_size', '9k', '"9k"', 'want a whole number from 1 to 65507'],
  ['batch_size', '0', '0', 'want a whole number from 1 to 1024'],
  ['batch_size', '1025', '1025', 'want a whole number from 1 to 1024'],
  ['batch_size', '.nan', 'NaN', 'want a whole number from 1 to 1024'],
  ['workers', '-1', '-1', 'want a whole number from 0 to 256'],
  ['workers', '257', '257', 'want a whole number from 0 to 256'],
  ['workers', 'true', 'true', 'want a whole number from 0 to 256'],
  ['recv_buf_size', '2147483648', '2147483648', 'want a whole number from 0 to 2147483647'],
  ['recv_buf_size', '1e400', 'Infinity', 'want a whole number from 0 to 2147483647'],
  ['recv_buf_size', '99999999999999999999', '100000000000000000000', 'want a whole number from 0 to 2147483647'],
  ['max_sources', '0', '0', 'want a whole number from 1 to 65536'],
  ['max_sources', '65537', '65537', 'want a whole number from 1 to 65536'],
  ['pin_cpus', 'yes', '"yes"', 'want true or false, without quotes'],
  ['pin_cpus', '1', '1', 'want true or false, without quotes'],
];

/** A listener that receives from the given Service; the map starts at column 17 of line 5. */
const service = (map: string) => config({ source: `kubernetes: {${map}}` });
const port = (written: string) => service(`service: a, port: ${written}`);
const WANT_PORT = `want a number from 1 to 65535 or ${WANT_PORT_NAME}`;

// biome-ignore format: a table, one case a line
const LISTENERS: readonly Case[] = [
  ['no interface', config({ nic: 'mode: tc_ebpf' }), `2:5: listeners[0]: interface is missing, ${NEED_INTERFACE}`],
  ['no interface for the default mode', config({ nic: 'settings: {}' }), `2:5: listeners[0]: interface is missing, ${NEED_INTERFACE}`],
  ['interfaces without one', config({ nic: 'interfaces: []' }), `4:17: listeners[0].interfaces: the list is empty, ${NEED_INTERFACE}`],
  ['both keys', config({ rest: '    interfaces: [eth1]\n' }), '6:5: listeners[0].interfaces: stands beside interface, want one of the two'],
  ['the same interface twice', config({ nic: 'interfaces: [eth0, eth1, eth0]' }), '4:30: listeners[0].interfaces[2] "eth0": interfaces[0] is the same, want each interface once'],
  ['interfaces as text', config({ nic: 'interfaces: eth0' }), '4:17: listeners[0].interfaces "eth0": want a list of interface names such as [eth0, eth1]'],
  ['interface as a list', config({ nic: 'interface: [eth0]' }), '4:16: listeners[0].interface: found a list, want one name here, several under interfaces'],
  ['an interface of 16 bytes', config({ nic: 'interface: enp0s3f0u1u2u3u4' }), `4:16: listeners[0].interface "enp0s3f0u1u2u3u4": want ${WANT_INTERFACE}`],
  ['15 characters of 16 bytes', config({ nic: 'interface: enp0s3f0u1u2u3é' }), `4:16: listeners[0].interface "enp0s3f0u1u2u3é": want ${WANT_INTERFACE}`],
  ['an interface with "/"', config({ nic: 'interface: a/b' }), `4:16: listeners[0].interface "a/b": want ${WANT_INTERFACE}`],
  ['an interface with a space', config({ nic: 'interface: a b' }), `4:16: listeners[0].interface "a b": want ${WANT_INTERFACE}`],
  ['an alias of an interface', config({ nic: 'interface: eth0:1' }), `4:16: listeners[0].interface "eth0:1": want ${WANT_INTERFACE}`],
  ['"." as interface', config({ nic: 'interface: .' }), `4:16: listeners[0].interface ".": want ${WANT_INTERFACE}`],
  ['".." as interface', config({ nic: 'interface: ..' }), `4:16: listeners[0].interface "..": want ${WANT_INTERFACE}`],
  ['an empty interface', config({ nic: 'interface: ""' }), `4:16: listeners[0].interface "": want ${WANT_INTERFACE}`],
  ['a number as interface', config({ nic: 'interface: 0' }), `4:16: listeners[0].interface 0: found a number, want text in quotes: ${WANT_INTERFACE}`],
  ['no source', config({ source: 'mode: auto' }), '2:5: listeners[0]: kubernetes or downstream is missing, want exactly one of the two'],
  ['both sources', config({ rest: '    kubernetes: {service: a}\n' }), '6:5: listeners[0].kubernetes: stands beside downstream in line 5, want exactly one of the two'],
  ['both sources, the other order', config({ source: 'kubernetes: {service: a}', rest: `    ${STATIC}\n` }), '6:5: listeners[0].downstream: stands beside kubernetes in line 5, want exactly one of the two'],
  ['no service', service('port: 1'), `5:5: listeners[0].kubernetes: service is missing, want ${WANT_LABEL}`],
  ['a service that is no label', service('service: Vector'), `5:27: listeners[0].kubernetes.service "Vector": want ${WANT_LABEL}`],
  ['a namespace that is no label', service('service: a, namespace: a.b'), `5:41: listeners[0].kubernetes.namespace "a.b": want ${WANT_LABEL}`],
  ['port 0', port('0'), `5:36: listeners[0].kubernetes.port 0: ${WANT_PORT}`],
  ['port 65536', port('65536'), `5:36: listeners[0].kubernetes.port 65536: ${WANT_PORT}`],
  ['port 5514.5', port('5514.5'), `5:36: listeners[0].kubernetes.port 5514.5: ${WANT_PORT}`],
  ['a port in quotes', port('"5514"'), `5:36: listeners[0].kubernetes.port "5514": ${WANT_PORT.replace('number', 'number without quotes')}`],
  ['a port name of 16', port('abcdefghijklmnop'), `5:36: listeners[0].kubernetes.port "abcdefghijklmnop": ${WANT_PORT}`],
  ['a port name with two hyphens', port('a--b'), `5:36: listeners[0].kubernetes.port "a--b": ${WANT_PORT}`],
  ['a port name in capitals', port('Syslog'), `5:36: listeners[0].kubernetes.port "Syslog": ${WANT_PORT}`],
  ['a null port', port(''), `5:30: listeners[0].kubernetes.port: has no value, ${WANT_PORT}`],
  ['a list as port', port('[1]'), `5:36: listeners[0].kubernetes.port: found a list, ${WANT_PORT}`],
];

/** A listener with downstreams in flow maps, one a line from line 6. */
const downstreams = (bind: string, ...maps: readonly string[]) =>
  config({ bind, source: 'downstream:', rest: maps.map((map) => `      - {${map}}\n`).join('') });
const V4 = '"10.0.0.7:5514"';
const V6 = '"[fd00::7]:5514"';
const at = '6:19: listeners[0].downstream[0].address';

// biome-ignore format: a table, one case a line
const DOWNSTREAMS: readonly Case[] = [
  ['an empty list', config({ source: 'downstream: []' }), '5:17: listeners[0].downstream: has 0 downstreams, want 1 to 4096'],
  ['a null list', config({ source: 'downstream:' }), '5:5: listeners[0].downstream: has no value, want a list of downstreams, each a map with an address'],
  ['an address alone', config({ source: 'downstream: ["10.0.1.1:1"]' }), '5:18: listeners[0].downstream[0] "10.0.1.1:1": want a map with the keys name, address, weight'],
  ['no address', downstreams(V4, 'name: a'), `6:9: listeners[0].downstream[0]: address is missing, ${WANT_ADDRESS}`],
  ['a host name', downstreams(V4, 'address: "pod:1"'), `${at} "pod:1": "pod" is a host name and names are not looked up, ${WANT_ADDRESS}`],
  ['IPv6 without quotes', downstreams(V6, 'address: [fd00::1]:9'), '6:19: not valid YAML: a value that starts with "[" is a list, want it in quotes: "[fd00::1]:9"'],
  ['the IPv4 wildcard', downstreams(V4, 'address: "0.0.0.0:1"'), `${at} "0.0.0.0:1": is the wildcard address, want the address of one receiver`],
  ['the IPv6 wildcard', downstreams(V6, 'address: "[::]:1"'), `${at} "[::]:1": is the wildcard address, want the address of one receiver`],
  ['multicast', downstreams(V4, 'address: "239.1.1.1:1"'), `${at} "239.1.1.1:1": is a multicast address, want a unicast address`],
  ['IPv6 multicast', downstreams(V6, 'address: "[ff05::1]:1"'), `${at} "[ff05::1]:1": is a multicast address, want a unicast address`],
  ['broadcast', downstreams(V4, 'address: "255.255.255.255:1"'), `${at} "255.255.255.255:1": is the broadcast address, want a unicast address`],
  ['link-local', downstreams(V6, 'address: "[fe80::1]:1"'), `${at} "[fe80::1]:1": is link-local and says no interface, want an address that is routed`],
  ['the own bind', downstreams(V6, 'address: "[fd00:0::7]:5514"'), `${at} "[fd00::7]:5514": is the listener's own bind, which makes a loop, want the address of a receiver`],
  ['IPv6 behind IPv4', downstreams('"0.0.0.0:5514"', 'address: "[fd00::1]:9"'), `${at} "[fd00::1]:9": is IPv6, but bind "0.0.0.0:5514" takes IPv4 only, want an IPv4 address or bind "[::]:5514"`],
  ['IPv4 behind IPv6', downstreams(V6, 'address: "10.0.1.10:9000"'), `${at} "10.0.1.10:9000": is IPv4, but bind "[fd00::7]:5514" takes IPv6 only, want an IPv6 address or bind "[::]:5514"`],
  ['weight 0', downstreams(V4, 'weight: 0, address: "10.0.1.1:1"'), '6:18: listeners[0].downstream[0].weight 0: want a whole number from 1 to 256'],
  ['weight 257', downstreams(V4, 'weight: 257, address: "10.0.1.1:1"'), '6:18: listeners[0].downstream[0].weight 257: want a whole number from 1 to 256'],
  ['weight 1.5', downstreams(V4, 'weight: 1.5, address: "10.0.1.1:1"'), '6:18: listeners[0].downstream[0].weight 1.5: want a whole number from 1 to 256'],
  ['an empty name', downstreams(V4, 'name: "", address: "10.0.1.1:1"'), '6:16: listeners[0].downstream[0].name "": want 1 to 253 characters on one line'],
  ['a name of two lines', downstreams(V4, 'name: "a\\nb", address: "10.0.1.1:1"'), '6:16: listeners[0].downstream[0].name "a\\nb": want 1 to 253 characters on one line'],
  ['a repeated name', downstreams(V4, 'name: a, address: "10.0.1.1:1"', 'name: a, address: "10.0.1.1:2"'), '7:16: listeners[0].downstream[1].name "a": downstream[0] in line 6 has this name, want another'],
  ['a repeated address', downstreams(V6, 'address: "[fd00::1]:1"', 'address: "[FD00:0::1]:1"'), '7:19: listeners[0].downstream[1].address "[fd00::1]:1": downstream[0] in line 6 has this address, want another'],
  ['too many', downstreams(V4, ...many(4097, () => 1)), '6:7: listeners[0].downstream: has 4097 downstreams, want 1 to 4096'],
  ['too many slots', downstreams(V4, ...many(600, (index) => 255 + (index % 2))), '6:7: listeners[0].downstream: the weights make 153300 slots, want at most 65536 (lower weights, or with a common divisor)'],
];

function many(count: number, weight: (index: number) => number): readonly string[] {
  return Array.from({ length: count }, (_, index) => {
    return `address: "10.1.${index >> 8}.${index & 255}:1", weight: ${weight(index)}`;
  });
}

const second = (name: string, bind: string) =>
  `  - name: ${name}\n    bind: ${bind}\n    interface: eth0\n    ${STATIC}\n`;
const health = (map: string) => config({ rest: `health: {${map}}\n` });
const metrics = (map: string, bind = '"0.0.0.0:5514"') => config({ bind, rest: `metrics: {${map}}\n` });

// biome-ignore format: a table, one case a line
const SECTIONS: readonly Case[] = [
  ['a repeated listener name', config({ rest: second('syslog', '"0.0.0.0:1"') }), '6:11: listeners[1].name "syslog": listeners[0] in line 2 has this name, want another'],
  ['a repeated bind', config({ bind: '"[::1]:1"', source: 'downstream: [{address: "[fd00::1]:1"}]', rest: second('b', '"[0::1]:1"').replace('10.0.1.10', '[fd00::1]') }), '7:11: listeners[1].bind "[::1]:1": listeners[0] "syslog" in line 3 has this bind, want another address or port'],
  ['too many listeners', `listeners:\n${Array.from({ length: 257 }, (_, index) => second(`l${index}`, `"10.0.0.1:${index + 1}"`)).join('')}`, '2:3: listeners: has 257 listeners, want 1 to 256'],
  ['interval 0', health('interval_secs: 0'), '6:25: health.interval_secs 0: want seconds as a number from 1 to 3600'],
  ['interval 3601', health('interval_secs: 3601'), '6:25: health.interval_secs 3601: want seconds as a number from 1 to 3600'],
  ['interval in quotes', health('interval_secs: "5"'), '6:25: health.interval_secs "5": want seconds as a number without quotes from 1 to 3600'],
  ['interval with a unit', health('interval_secs: 5s'), '6:25: health.interval_secs "5s": want seconds as a number from 1 to 3600'],
  ['interval .inf', health('interval_secs: .inf'), '6:25: health.interval_secs Infinity: want seconds as a number from 1 to 3600'],
  ['timeout 0', health('timeout_secs: 0'), '6:24: health.timeout_secs 0: want seconds as a number above 0 and below interval_secs'],
  ['timeout -1', health('timeout_secs: -1'), '6:24: health.timeout_secs -1: want seconds as a number above 0 and below interval_secs'],
  ['timeout .nan', health('timeout_secs: .nan'), '6:24: health.timeout_secs NaN: want seconds as a number above 0 and below interval_secs'],
  ['timeout as long as the interval', health('timeout_secs: 5, interval_secs: 5'), '6:24: health.timeout_secs 5: want seconds as a number above 0 and below interval_secs 5'],
  ['timeout over the default interval', health('timeout_secs: 7.5'), '6:24: health.timeout_secs 7.5: want seconds as a number above 0 and below interval_secs, by default 5'],
  ['interval under the default timeout', health('interval_secs: 1'), '6:25: health.interval_secs 1: want more than timeout_secs, by default 2, or a lower timeout_secs'],
  ['a last resort without health', service('service: a, unready: last_resort'), '5:39: listeners[0].kubernetes.unready "last_resort": health is off and nobody is probed, want health or never'],
  ['a last resort with health off', `${service('service: a, unready: last_resort')}health: {enabled: false}\n`, '5:39: listeners[0].kubernetes.unready "last_resort": health is off and nobody is probed, want health or never'],
  ['an unknown resort', service('service: a, unready: always'), '5:39: listeners[0].kubernetes.unready "always": unknown unready, want last_resort or never'],
  ['fall 0', health('fall: 0'), '6:16: health.fall 0: want a whole number from 1 to 10'],
  ['rise 11', health('rise: 11'), '6:16: health.rise 11: want a whole number from 1 to 10'],
  ['fail_open of text', health('fail_open: "true"'), '6:21: health.fail_open "true": want true or false, without quotes'],
  ['a path without "/"', metrics('path: metrics'), `6:17: metrics.path "metrics": ${WANT_PATH}`],
  ['a path with a space', metrics('path: /a b'), `6:17: metrics.path "/a b": ${WANT_PATH}`],
  ['a path with a query', metrics('path: "/a?b"'), `6:17: metrics.path "/a?b": ${WANT_PATH}`],
  ['a path with a fragment', metrics('path: "/a#b"'), `6:17: metrics.path "/a#b": ${WANT_PATH}`],
  ['the path of liveness', metrics('path: /healthz'), '6:17: metrics.path "/healthz": the probes answer there, want another path'],
  ['the path of readiness', metrics('path: /readyz'), '6:17: metrics.path "/readyz": the probes answer there, want another path'],
  ['metrics on a host name', metrics('bind: "localhost:9090"'), `6:17: metrics.bind "localhost:9090": "localhost" is a host name and names are not looked up, ${WANT_ADDRESS}`],
  ['metrics on port 0', metrics('bind: "[::]:0"'), '6:17: metrics.bind "[::]:0": port 0 is not usable, want 1 to 65535'],
  ["a listener's port for metrics", metrics('bind: "[::]:5514"'), '3:11: listeners[0].bind "0.0.0.0:5514": metrics.bind in line 6 has port 5514 too, want another port'],
  ['the default port of metrics', metrics('enabled: true', '"0.0.0.0:9090"'), '3:11: listeners[0].bind "0.0.0.0:9090": metrics in line 6 (bind defaults to 0.0.0.0:9090) has port 9090 too, want another port'],
];

const ALL = [...FILES, ...SHAPES, ...LISTENERS, ...DOWNSTREAMS, ...SECTIONS];

describe('a mistake is told with its line and column', () => {
  test.each(ALL)('%s', (_, yaml, ...expected) => {
    expect(mistakesIn(yaml)).toEqual(expected);
  });

  test.each(BINDS)('bind: %s', (bind, message) => {
    expect(mistakesIn(config({ bind }))).toEqual([`3:11: listeners[0].bind${message}`]);
  });

  test('bind without a value, and IPv6 without quotes', () => {
    expect(mistakesIn(config({ bind: '' }))).toEqual([`3:5: listeners[0].bind: has no value, ${WANT_ADDRESS}`]);
    const quotes = 'not valid YAML: a value that starts with "[" is a list, want it in quotes: "[::]:5514"';
    expect(mistakesIn(config({ bind: '[::]:5514' }))).toEqual([`3:11: ${quotes}`]);
  });

  test.each(NUMBERS)('settings.%s: %s', (key, written, shown, want) => {
    const col = 18 + key.length;
    const yaml = config({ rest: `    settings: {${key}: ${written}}\n` });
    expect(mistakesIn(yaml)).toEqual([`6:${col}: listeners[0].settings.${key} ${shown}: ${want}`]);
  });
});

describe('all mistakes are told at once', () => {
  const documented = readFileSync(new URL('../../docs/CONFIGURATION.md', import.meta.url), 'utf8');

  test('in the order of the file, as the reference shows them', () => {
    const [, yaml = '', output = ''] = /```yaml bad\n(.*?)```.*?```text\n(.*?)\n```/s.exec(documented) ?? [];
    const error = failure(() => parseConfig(yaml, 'config.yaml'));
    expect(error.message).toBe(output);
    expect(error.diagnostics).toHaveLength(12);
    expect(error.file).toBe('config.yaml');
  });

  test('every line that the reference explains is one of the tables above', () => {
    const told = ALL.flatMap(([, ...texts]) => texts.slice(1).map((text) => String(text).replace(/^\d+:\d+: /, '')));
    const explained = [...documented.slice(documented.indexOf('More lines')).matchAll(/^\| `(.*?)` \| /gm)];
    const lines = explained.map(([, line = '']) => line).filter((line) => !line.startsWith('no such file'));
    expect(lines).toHaveLength(7);
    const quotes = 'not valid YAML: a value that starts with "[" is a list, want it in quotes: "[::]:5514"';
    expect([...told, quotes]).toEqual(expect.arrayContaining(lines));
  });

  test('a wrong value does not hide what is wrong around it', () => {
    const yaml = downstreams('"0.0.0.0:0"', 'address: "10.0.1.1:1", weight: 0', 'address: "10.0.1.1:1"', 'adress: ""');
    expect(mistakesIn(`${yaml}health: {timeout_secs: 9, protocol: x}\n`)).toEqual([
      '3:11: listeners[0].bind "0.0.0.0:0": port 0 is not usable, want 1 to 65535',
      '6:41: listeners[0].downstream[0].weight 0: want a whole number from 1 to 256',
      '7:19: listeners[0].downstream[1].address "10.0.1.1:1": downstream[0] in line 6 has this address, want another',
      '8:10: listeners[0].downstream[2].adress: unknown key, did you mean address?',
      '9:24: health.timeout_secs 9: want seconds as a number above 0 and below interval_secs, by default 5',
      '9:37: health.protocol "x": unknown protocol, want icmp, udp_port or udp_echo',
    ]);
  });

  test('a misspelt key is not also missing', () => {
    const yaml = 'listeners:\n  - nmae: a\n    bnd: x\n    interfase: eth0\n    downstreams: []\n';
    expect(mistakesIn(yaml)).toEqual([
      '2:5: listeners[0].nmae: unknown key, did you mean name?',
      '3:5: listeners[0].bnd: unknown key, did you mean bind?',
      '4:5: listeners[0].interfase: unknown key, did you mean interface?',
      '5:5: listeners[0].downstreams: unknown key, did you mean downstream?',
    ]);
  });

  test('a misspelt key counts as what it was meant for', () => {
    expect(mistakesIn(config({ source: 'kubernetes: {service: a}', rest: '    downstreams: []\n' }))).toEqual([
      '6:5: listeners[0].downstreams: unknown key, did you mean downstream?',
      '6:5: listeners[0].downstream: stands beside kubernetes in line 5, want exactly one of the two',
    ]);
  });

  test('a misspelt key beside the right one hides nothing', () => {
    expect(mistakesIn(config({ bind: '5', rest: '    bnd: 6\n' }))).toEqual([
      `3:11: listeners[0].bind 5: found a number, ${WANT_ADDRESS}`,
      '6:5: listeners[0].bnd: unknown key, did you mean bind?',
    ]);
  });
});

describe('a valid config', () => {
  test('has the documented defaults', () => {
    expect(parseConfig(config(), 'config.yaml')).toEqual<Config>({
      listeners: [
        {
          id: 0,
          name: 'syslog',
          bind: { family: 4, ip: '0.0.0.0', port: 5514 },
          interfaces: ['eth0'],
          mode: 'auto',
          endpoints: {
            kind: 'static',
            list: [{ address: { family: 4, ip: '10.0.1.10', port: 9000 }, weight: 1 }],
          },
          source: 'auto',
          pmtu: 'fragment',
          settings: { maxPacketSize: 9000, batchSize: 64, workers: 0, pinCpus: true, recvBufSize: 0, maxSources: 512 },
        },
      ],
      health: {
        enabled: false,
        intervalSecs: 5,
        timeoutSecs: 2,
        protocol: 'icmp',
        failOpen: true,
        fall: 1,
        rise: 2,
      },
      metrics: { enabled: false, bind: { family: 4, ip: '0.0.0.0', port: 9090 }, path: '/metrics' },
      lifecycle: { onExit: 'keep', leaseSecs: 300 },
      log: { level: 'info', format: 'text' },
    });
  });

  test('keeps what is written', () => {
    const parsed = parseConfig(
      `listeners:
  - name: a.b_c-1
    bind: "[::]:5514"
    interfaces: [eth0, ens3.100]
    mode: tc_ebpf
    source: preserve
    downstream:
      - {name: "rack 3", address: "[FD00:0:0::1]:9", weight: 256}
      - {address: "10.0.1.10:9000"}
    settings: {max_packet_size: 65507, batch_size: 1024, workers: 256, pin_cpus: false, recv_buf_size: 16777216, max_sources: 1}
health: {interval_secs: 1.5, timeout_secs: 0.25, protocol: udp_echo, fail_open: false, fall: 3, rise: 10}
metrics: {bind: "[::]:9100", path: /}
log: {level: debug, format: json}
`,
      'config.yaml',
    );
    expect(parsed.listeners[0]).toMatchObject({
      bind: { family: 6, ip: '::', port: 5514 },
      interfaces: ['eth0', 'ens3.100'],
      endpoints: {
        list: [
          { name: 'rack 3', address: { family: 6, ip: 'fd00::1', port: 9 }, weight: 256 },
          { address: { family: 4, ip: '10.0.1.10', port: 9000 }, weight: 1 },
        ],
      },
      source: 'preserve',
      settings: {
        maxPacketSize: 65507,
        batchSize: 1024,
        workers: 256,
        pinCpus: false,
        recvBufSize: 16777216,
        maxSources: 1,
      },
    });
    expect(parsed.health).toEqual({
      enabled: true,
      intervalSecs: 1.5,
      timeoutSecs: 0.25,
      protocol: 'udp_echo',
      failOpen: false,
      fall: 3,
      rise: 10,
    });
    expect(parsed.metrics).toEqual({ enabled: true, bind: { family: 6, ip: '::', port: 9100 }, path: '/' });
    expect(parsed.log).toEqual({ level: 'debug', format: 'json' });
  });

  test('has health and metrics on where their section is written, unless it says otherwise', () => {
    const enabled = (rest: string) => {
      const { health, metrics } = parseConfig(config({ rest }), 'config.yaml');
      return [health.enabled, metrics.enabled];
    };
    expect(enabled('')).toEqual([false, false]);
    expect(enabled('health: {}\nmetrics: {}\n')).toEqual([true, true]);
    expect(enabled('health: {enabled: false}\nmetrics: {enabled: false}\n')).toEqual([false, false]);
  });

  test("takes the Service's namespace from the file, else from the pod, else default", () => {
    const namespace = (map: string, podNamespace?: string) => {
      const { listeners } = parseConfig(service(map), 'config.yaml', { podNamespace });
      return listeners[0]?.endpoints;
    };
    expect(namespace('service: a, namespace: b', 'pod')).toEqual({ kind: 'kubernetes', namespace: 'b', service: 'a' });
    expect(namespace('service: a', 'pod')).toEqual({ kind: 'kubernetes', namespace: 'pod', service: 'a' });
    expect(namespace('service: a', '')).toEqual({ kind: 'kubernetes', namespace: 'default', service: 'a' });
    expect(namespace('service: a')).toEqual({ kind: 'kubernetes', namespace: 'default', service: 'a' });
  });

  test('uses unready endpoints as the last resort where health is on, unless it says otherwise', () => {
    const unready = (rest: string, key = '') => {
      const source = parseConfig(`${service(`service: a${key}`)}${rest}`, 'config.yaml').listeners[0]?.endpoints;
      return source?.kind === 'kubernetes' ? (source.unready ?? 'never') : source?.kind;
    };
    expect(unready('')).toBe('never');
    expect(unready('health: {enabled: false}\n')).toBe('never');
    expect(unready('health: {}\n')).toBe('last_resort');
    expect(unready('health: {}\n', ', unready: never')).toBe('never');
    expect(unready('', ', unready: never')).toBe('never');
    expect(unready('health: {}\n', ', unready: last_resort')).toBe('last_resort');
  });

  test.each([
    ['a port by name', service('service: a, port: syslog-udp')],
    ['a Service that starts with a digit', service('service: 0a, port: 1')],
    ['userspace without an interface', config({ nic: 'mode: userspace' })],
    ['an interface with a dot', config({ nic: 'interface: ens1f1np1.3002' })],
    ['an address without quotes', config({ bind: '0.0.0.0:5514' })],
    ['two binds with one port', config({ bind: V4, rest: second('b', '"10.0.0.8:5514"') })],
    ['both families behind [::]', downstreams('"[::]:1"', 'address: "10.0.1.1:1"', 'address: "[fd00::1]:1"')],
    ['one pod with two ports', downstreams(V4, 'address: "10.0.1.1:1"', 'address: "10.0.1.1:2"')],
    ['4096 downstreams of 16 slots', downstreams(V4, ...many(4096, (index) => (index === 0 ? 15 : 16)))],
    ['4096 equal weights', downstreams(V4, ...many(4096, () => 256))],
    ['metrics off on a listener port', metrics('enabled: false, bind: "[::]:5514"')],
    ['CRLF', config({ rest: 'log: {}\n' }).replaceAll('\n', '\r\n')],
    ['a byte order mark', `\uFEFF${config()}`],
    ['a document start and end', `---\n${config()}...\n`],
    ['tabs between tokens', config({ rest: 'log:\t{level:\tinfo}\t# é\n' })],
    ['a last line without its end', config({ rest: 'log: {level: info}' })],
  ])('may have %s', (_, yaml) => {
    expect(mistakesIn(yaml)).toEqual([]);
  });

  test('is every example of the reference', () => {
    const documented = readFileSync(new URL('../../docs/CONFIGURATION.md', import.meta.url), 'utf8');
    const examples = [...documented.matchAll(/```yaml\n(.*?)```/gs)].map(([, yaml = '']) => yaml);
    expect(examples).toHaveLength(2);
    expect(examples.flatMap(mistakesIn)).toEqual([]);
  });
});

// The deployment guide's own configs and fragments, word for word (its settings indented to fit a listener).
const GUIDE_LISTENERS: readonly (readonly [string, string])[] = [
  [
    'quick deploy',
    `listeners:
  - name: syslog
    bind: "0.0.0.0:5514"           # Listener port on host
    interface: eth0                 # Host NIC (check with \`ip link\`)
    mode: tc_ebpf
    kubernetes:
      namespace: logging            # Where your receivers are deployed
      service: vector-aggregators   # Service name (headless recommended)
      port: 5514                    # Receiver port
`,
  ],
  [
    'tc_ebpf',
    `listeners:
  - name: my-listener
    bind: "0.0.0.0:9000"
    interface: eth0
    mode: tc_ebpf
    kubernetes:
      namespace: my-namespace
      service: my-receivers
      port: 9000
`,
  ],
  [
    'userspace',
    `listeners:
  - name: my-listener
    bind: "0.0.0.0:9000"
    mode: userspace
    kubernetes:
      namespace: my-namespace
      service: my-receivers
      port: 9000
    settings:
      batch_size: 64
      workers: 4
      pin_cpus: true
`,
  ],
  [
    'static downstreams',
    `listeners:
  - name: my-listener
    bind: "0.0.0.0:9000"
    interface: eth0
    mode: tc_ebpf
    downstream:
      - name: receiver-1
        address: "10.0.1.10:9000"
      - name: receiver-2
        address: "10.0.1.11:9000"
      - name: receiver-3
        address: "10.0.1.12:9000"
`,
  ],
  [
    'Vector log aggregation',
    `listeners:
  - name: syslog
    bind: "0.0.0.0:5514"
    interface: eth0
    mode: tc_ebpf
    kubernetes:
      namespace: logging
      service: vector-aggregators
      port: 5514

health:
  enabled: true
  interval_secs: 5
  timeout_secs: 2
  protocol: icmp
`,
  ],
  [
    'multi-tenant',
    `listeners:
  # Tenant A - syslog
  - name: tenant-a-syslog
    bind: "0.0.0.0:5514"
    interface: eth0
    mode: tc_ebpf
    kubernetes:
      namespace: tenant-a
      service: log-receivers
      port: 5514

  # Tenant B - metrics
  - name: tenant-b-metrics
    bind: "0.0.0.0:9125"
    interface: eth0
    mode: tc_ebpf
    kubernetes:
      namespace: tenant-b
      service: statsd-receivers
      port: 9125

  # Tenant C - custom UDP app
  - name: tenant-c-app
    bind: "0.0.0.0:8888"
    interface: eth0
    mode: tc_ebpf
    kubernetes:
      namespace: tenant-c
      service: app-receivers
      port: 8888
`,
  ],
];

const GUIDE_FRAGMENTS: readonly (readonly [string, string])[] = [
  [
    'health checks',
    `health:
  enabled: true
  interval_secs: 5      # Probe every 5 seconds
  timeout_secs: 2       # Mark unhealthy after 2s no response
  protocol: icmp        # or udp_echo (requires app support)
`,
  ],
  [
    'metrics',
    `metrics:
  enabled: true
  bind: "0.0.0.0:9090"
  path: /metrics
`,
  ],
  [
    'CPU pinning',
    `    settings:
      pin_cpus: true
      workers: 4  # Match physical cores
`,
  ],
  [
    'socket buffers',
    `    settings:
      recv_buf_size: 16777216  # 16MB
`,
  ],
];

describe("the deployment guide's config", () => {
  test.each(GUIDE_LISTENERS)('%s', (_, yaml) => {
    expect(mistakesIn(yaml)).toEqual([]);
  });

  test.each(GUIDE_FRAGMENTS)('%s', (_, fragment) => {
    expect(mistakesIn(config({ rest: fragment }))).toEqual([]);
  });

  test('numbers its listeners from 0', () => {
    const { listeners } = parseConfig(GUIDE_LISTENERS.at(-1)?.[1] ?? '', 'config.yaml');
    expect(listeners.map(({ id, name }) => `${id} ${name}`)).toEqual([
      '0 tenant-a-syslog',
      '1 tenant-b-metrics',
      '2 tenant-c-app',
    ]);
  });
});

describe('loadConfig', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'udp-fanout-config-'));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  const written = (name: string, content: string | Uint8Array) => {
    const file = join(folder, name);
    writeFileSync(file, content);
    return file;
  };

  test('reads a file', () => {
    const file = written('good.yaml', service('service: a'));
    expect(loadConfig(file, { podNamespace: 'pod' })).toEqual(
      parseConfig(service('service: a'), file, { podNamespace: 'pod' }),
    );
  });

  test('names the file in every line', () => {
    const file = written('bad.yaml', 'listener: []\nlogs: {}\n');
    expect(failure(() => loadConfig(file)).message).toBe(
      `${file}:1:1: listener: unknown key, did you mean listeners?\n${file}:2:1: logs: unknown key, did you mean log?`,
    );
  });

  test.each([
    ['a missing file', 'none.yaml', 'no such file, want the path of a YAML file'],
    ['a directory', '.', 'is a directory, want a YAML file'],
    ['a link to itself', 'loop.yaml', 'cannot be read (ELOOP), want a readable YAML file'],
    ['a file under a file', 'empty.yaml/x', 'cannot be read (ENOTDIR), want a readable YAML file'],
    ['an empty file', 'empty.yaml', 'the file is empty, want YAML with at least "listeners:"'],
    ['an impossible name', 'a\0b', 'cannot be read (ERR_INVALID_ARG_VALUE), want a readable YAML file'],
  ])('says so of %s', (_, name, message) => {
    written('empty.yaml', '');
    rmSync(join(folder, 'loop.yaml'), { force: true });
    symlinkSync('loop.yaml', join(folder, 'loop.yaml'));
    expect(failure(() => loadConfig(join(folder, name))).diagnostics).toEqual([{ line: 1, col: 1, message }]);
  });

  test('points at the first byte that is not UTF-8', () => {
    const file = written('latin1.yaml', Buffer.concat([Buffer.from('# é\n# é '), Buffer.from([0xe9, 0x0a])]));
    const message = 'not UTF-8 text, want YAML in UTF-8';
    expect(failure(() => loadConfig(file)).diagnostics).toEqual([{ line: 2, col: 5, message }]);
  });
});

describe('a file that is too much to read', () => {
  const LESS = 'want fewer static downstreams; those of a Service (kubernetes) need no room in the file';
  const LARGE = `the file is larger than 1048576 bytes (1 MiB), ${LESS}`;
  const LONG = `1:1: more than 400000 words, marks and spaces, ${LESS}`;
  /** As many static downstreams as make a file of nearly 1 MiB. */
  const full = (style: (address: string) => string) => {
    const lists = Array.from({ length: 8 }, (_, list) => {
      const addresses = Array.from({ length: 4096 }, (_, index) => `10.${list}.${index >> 8}.${index & 255}:9000`);
      const head = `  - name: l${list}\n    bind: "0.0.0.0:${5000 + list}"\n    interface: eth0\n    downstream:\n`;
      return head + addresses.map((address) => `      - ${style(address)}\n`).join('');
    });
    const text = `listeners:\n${lists.join('')}`.slice(0, 1 << 20);
    return text.slice(0, text.lastIndexOf('      - '));
  };

  test.each([
    ['an endless one', '/dev/zero'],
    ['one byte too many', undefined],
  ])('is not read: %s', (_, endless) => {
    const folder = mkdtempSync(join(tmpdir(), 'udp-fanout-config-'));
    const file = endless ?? join(folder, 'large.yaml');
    if (!endless) writeFileSync(file, config().padEnd((1 << 20) + 1, '\n'));
    const { diagnostics } = failure(() => loadConfig(file));
    rmSync(folder, { recursive: true });
    expect(diagnostics).toEqual([{ line: 1, col: 1, message: LARGE }]);
  });

  test.each([
    ['short items', `listeners: [${'1,'.repeat(500_000)}]`],
    ['short lines', `listeners:\n${'- 1\n'.repeat(250_000)}`],
    ['empty maps', `listeners: [${'{},'.repeat(300_000)}]`],
    ['deep lists', `listeners: ${'['.repeat(500_000)}`],
    ['deep dashes', '- '.repeat(500_000)],
    ['line ends', '#\n'.repeat(500_000)],
  ])('is not parsed: %s', (_, text) => {
    expect(mistakesIn(text)).toEqual([LONG]);
  });

  test('has a syntax error on each line told, in time that grows with them', () => {
    expect(mistakesIn(`listeners:\n${'- {\n'.repeat(40_000)}`)).toHaveLength(40_000);
  });

  test('says so where the schema finds more mistakes than it can hand on', () => {
    const text = config({ source: `downstream: [${'*a,'.repeat(195_000)}]` });
    expect(mistakesIn(text.replace('syslog', '&a syslog'))).toEqual(['1:1: has more mistakes than can be listed']);
  });

  test.each([
    ['short', (address: string) => `address: ${address}`],
    ['in braces', (address: string) => `{address: "${address}"}`],
    ['named', (address: string) => `name: receiver-${address}\n        address: "${address}"\n        weight: 1`],
  ])('is not one of 1 MiB of downstreams, %s', (_, style) => {
    expect(mistakesIn(full(style))).toEqual([]);
  });
});

describe('whatever the text', () => {
  const everything = [...GUIDE_LISTENERS.map(([, yaml]) => yaml), metrics('bind: "[::]:1"'), health('fall: 2')];

  /** Parses, and checks that what is thrown is a list of mistakes that lie in the text. */
  const survives = (text: string) => {
    try {
      parseConfig(text, 'config.yaml');
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      const lines = text.split('\n');
      expect(error.diagnostics).not.toHaveLength(0);
      expect(error.message.split('\n')).toHaveLength(error.diagnostics.length);
      for (const [index, { line, col }] of error.diagnostics.entries()) {
        const before = error.diagnostics[index - 1] ?? { line: 1, col: 1 };
        expect(line > before.line || (line === before.line && col >= before.col)).toBe(true);
        expect(col - 1).toBeLessThanOrEqual(lines[line - 1]?.length ?? -1);
      }
    }
  };

  test('arbitrary text ends in a config or a ConfigError', () => {
    fc.assert(fc.property(fc.string({ unit: 'binary' }), survives), { numRuns: 300 });
    fc.assert(fc.property(fc.string({ unit: fc.constantFrom(...'-:[]{}&*!|>\'"%@`#,? \t\r\n\uFEFF~<a1') }), survives), {
      numRuns: 1000,
    });
  });

  test('so do changed bits of valid configs', () => {
    const bits = fc.constantFrom(...'-:[]{}&*!|>\'"%@`#,? \t\n\u2028é😀0', '\n---\n', ': ', '\n- ', '<<: ', '[::]:1');
    const change = fc.record({ place: fc.double({ min: 0, max: 1, noNaN: true }), cut: fc.nat(12), put: bits });
    const changed = fc.tuple(fc.constantFrom(...everything), fc.array(change, { minLength: 1, maxLength: 4 }));
    fc.assert(
      fc.property(changed, ([yaml, changes]) => {
        survives(
          changes.reduce((text, { place, cut, put }) => {
            const offset = Math.floor(place * text.length);
            return text.slice(0, offset) + put + text.slice(offset + cut);
          }, yaml),
        );
      }),
      { numRuns: 1000 },
    );
  });

  test('so do changed values and keys of valid configs', () => {
    const odd = [
      '',
      '~',
      '.nan',
      '-.inf',
      '1e999',
      '-0',
      '0x10',
      '[]',
      '{}',
      '{a: b}',
      '[[1]]',
      '*a',
      '&a x',
      '!!int x',
    ];
    const value = fc.oneof(
      fc.constantFrom(...odd, 'true', '"[::]:1"', '"\\u0000"', '"\\ud800"', '__proto__'),
      fc.integer().map(String),
      fc.string().map((text) => JSON.stringify(text)),
    );
    const key = fc.constantFrom(
      '',
      'name',
      'bind',
      '__proto__',
      'constructor',
      '"a b"',
      '5',
      'null',
      '? x\n',
      'interfaces',
    );
    const edit = fc.record({ nth: fc.nat(30), key: fc.option(key), value: fc.option(value) });
    fc.assert(
      fc.property(fc.constantFrom(...everything), fc.array(edit, { minLength: 1, maxLength: 4 }), (yaml, edits) => {
        const lines = yaml.split('\n');
        for (const { nth, key, value } of edits) {
          const index = nth % lines.length;
          lines[index] = (lines[index] ?? '').replace(/^([\s-]*)(\w+):(.*)$/, (_, indent, oldKey, oldValue) => {
            return `${indent}${key ?? oldKey}: ${value ?? oldValue}`;
          });
        }
        survives(lines.join('\n'));
      }),
      { numRuns: 1000 },
    );
  });
});

describe('the schema', () => {
  test('describes each key in one sentence, the reference has it, and there is a JSON Schema', () => {
    const documented = readFileSync(new URL('../../docs/CONFIGURATION.md', import.meta.url), 'utf8');
    const undescribed: string[] = [];
    const undocumented: string[] = [];
    const visit = (schema: unknown, place: string) => {
      const { properties = {}, items } = schema as {
        properties?: Record<string, { description?: string }>;
        items?: unknown;
      };
      for (const [key, inner] of Object.entries(properties)) {
        if (!/^\S[^\n]{10,}\.$/.test(inner.description ?? '')) undescribed.push(`${place}.${key}`);
        if (!documented.includes(`| \`${key}\` |`)) undocumented.push(`${place}.${key}`);
        visit(inner, `${place}.${key}`);
      }
      if (items !== undefined) visit(items, `${place}[]`);
    };
    const schema = toJSONSchema(configSchema, { io: 'input' });
    visit(schema, '');
    expect(undescribed).toEqual([]);
    expect(undocumented).toEqual([]);
    expect(schema).toMatchObject({ required: ['listeners'], additionalProperties: false });
  });
});

test.each([
  ['intrface', 'interface'],
  ['interfcae', 'interface'],
  ['Bind', 'bind'],
  ['max-weight', undefined],
  ['lissteners', 'listeners'],
  ['b', undefined],
  ['', undefined],
])('nearest to %j is %j', (word, meant) => {
  expect(nearest(word, ['name', 'bind', 'interface', 'interfaces', 'listeners', 'log'])).toBe(meant);
});

function failure(run: () => unknown): ConfigError {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('no mistake was found');
}
