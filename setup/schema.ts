/** `npm run schema`: the config's JSON Schema for editors, docs/udp-fanout.schema.json, from the schema that is enforced. */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { toJSONSchema } from 'zod';
import { configSchema } from '../agent/config/schema.ts';

const FILE = fileURLToPath(new URL('../docs/udp-fanout.schema.json', import.meta.url));

/** The text of the file. What spans several keys only `udp-fanout check` can tell. */
function schemaText(): string {
  const { $schema, ...rest } = toJSONSchema(configSchema, { io: 'input' });
  const title = 'udp-fanout config';
  return `${text({ $schema, title, ...rest }, '')}\n`;
}

/** JSON as the formatter has it: lists of plain values on one line. */
function text(value: unknown, indent: string): string {
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const inner = `${indent}  `;
  if (Array.isArray(value)) {
    if (value.every((one) => typeof one !== 'object')) return `[${value.map((one) => JSON.stringify(one)).join(', ')}]`;
    return `[\n${value.map((one) => `${inner}${text(one, inner)}`).join(',\n')}\n${indent}]`;
  }
  const entries = Object.entries(value);
  if (entries.length === 0) return '{}';
  const lines = entries.map(([key, one]) => `${inner}${JSON.stringify(key)}: ${text(one, inner)}`);
  return `{\n${lines.join(',\n')}\n${indent}}`;
}

if (process.argv[2] === '--print') process.stdout.write(schemaText());
else writeFileSync(FILE, schemaText());
